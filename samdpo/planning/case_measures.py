"""What one case contributes to the fingerprint: sizes, intensities and components, small enough to send about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from scipy import ndimage

from samdpo.dataset.cases import Case
from samdpo.dataset.dataset_json import Modality, modality_of
from samdpo.dataset.orientation import axial_axis, orientation
from samdpo.dataset.raw_dataset import RawDataset
from samdpo.dataset.volume import has_colours
from samdpo.errors import DatasetError

_ALL_FILES = "--verify_dataset_integrity lists all such files."
_SAMPLES = 10_000  # intensities kept of a case's foreground, and of each structure, where there are few cases
_SAMPLES_OF_ALL = 2_000_000  # of all cases together: memory does not grow with their number
_COARSER = 1.1  # times the step between axial slices, from which another axis is clearly the coarsest
_COMPONENT_SHARE = 0.05  # of the largest component of a slice; smaller ones are specks of the drawing


@dataclass(frozen=True)
class StructureMeasure:
    """One structure in one case.

    Attributes:
        intensities: (C, n) sample of its voxels.
        sizes: share of the slice's area, one a slice that shows it.
        components: connected parts, one a slice that shows it.
        case_components: connected parts of the whole case, in 3D.
    """

    intensities: np.ndarray
    sizes: list[float]
    components: list[int]
    case_components: int


@dataclass(frozen=True)
class CaseMeasure:
    """One labelled case.

    Attributes:
        shape: (Z, Y, X).
        cropped_shape: (Z, Y, X) of the box around what is not zero.
        spacing: (z, y, x) mm.
        value_range: per channel (lowest, highest).
        intensities: (C, n) sample of all labelled voxels.
        n_slices: along the slicing axis.
        n_foreground_slices: those that show at least one structure.
        n_known_slices: those of which anything is known; the others have the label ``ignore`` all over.
        ndim: 2 for a picture, 3 for a volume.
        orientation: where its axes x, y, z run, such as ``LPS``; "" for a picture.
        structures: by name; only those the case shows.
        n_files: of the image.
        coloured: whether its three channels, of one file, differ.
        whole: whether no voxel has the label ``ignore``.
    """

    identifier: str
    shape: tuple[int, ...]
    cropped_shape: tuple[int, ...]
    spacing: tuple[float, ...]
    value_range: list[tuple[float, float]]
    intensities: np.ndarray
    n_slices: int
    n_foreground_slices: int
    n_known_slices: int
    ndim: int
    orientation: str
    structures: dict[str, StructureMeasure] = field(default_factory=dict)
    n_files: int = 1
    coloured: bool = False
    whole: bool = True


def ndim_of(shapes: Iterable[Sequence[int]]) -> int:
    """2 for pictures, 3 for volumes, by the shapes (Z, Y, X) of a dataset's cases."""
    return 3 if any(shape[0] > 1 for shape in shapes) else 2


def slicing_axis(
    modality: Modality, spacing: tuple[float, ...], shape: tuple[int, ...], letters: str = ""
) -> tuple[int, str]:
    """Axis of (Z, Y, X) along which slices are cut, and why.

    The coarsest one, and the body's where none is clearly coarser; CT is axial; a picture, or a volume of one slice,
    has no choice.

    Args:
        modality: of the first channel.
        spacing: (z, y, x) mm.
        shape: (Z, Y, X).
        letters: the orientation of the axes x, y, z, which tells the axial slices of a volume.
    """
    if 1 in shape:
        return shape.index(1), "a picture" if shape[0] == 1 else "a single slice"
    if modality == "ct":
        return axial_axis(letters), f"CT is cut axially; its axes run {letters}" if letters else "CT is cut axially"
    mm = [f"{size:.3g}" for size in spacing]
    axis, axial = int(np.argmax(spacing)), axial_axis(letters)
    if spacing[axis] < _COARSER * spacing[axial]:
        finer = f"no axis is clearly coarser ({' x '.join(mm)} mm), so it is cut axially"
        return axial, f"{finer}; its axes run {letters}" if letters else finer
    return axis, f"spacing {mm.pop(axis)} mm against {' and '.join(mm)} mm"


def samples_of_a_case(n_cases: int) -> int:
    """Intensities that each of ``n_cases`` cases gives of its foreground, and of each structure."""
    return max(1, min(_SAMPLES, _SAMPLES_OF_ALL // max(1, n_cases)))


def measure_case(case: Case, raw: RawDataset, samples: int = _SAMPLES) -> CaseMeasure:
    """Read one labelled case and measure it.

    Args:
        case: with a label.
        raw: its dataset.
        samples: intensities kept of the foreground, and of each structure.

    Raises:
        DatasetError: image and label differ in size or geometry, a value that dataset.json does not list, an image of
            one value.
    """
    volume, meta = raw.image(case), raw.meta
    found = raw.checked_label(case, volume)
    if found.problems:
        raise DatasetError(f"{found.problems[0]} {_ALL_FILES}")
    data, label, shape = volume.data, found.data, volume.data.shape[1:]
    value_range = [(float(channel.min()), float(channel.max())) for channel in data]
    if all(low == high for low, high in value_range):
        raise DatasetError(
            f"{case.images[0]} is {'all black' if value_range[0][0] == 0 else 'of one value'}: it shows nothing. "
            f"Replace it or remove the case. {_ALL_FILES}"
        )
    letters = orientation(volume.properties)
    axis, _ = slicing_axis(modality_of(next(iter(meta.channel_names.values()))), volume.spacing, shape, letters)
    generator = np.random.default_rng(1234)
    take = partial(_sample, data, generator, samples)
    known = np.ones_like(label, bool) if meta.ignore_label is None else label != meta.ignore_label
    foreground = (label > 0) & known
    structures = {
        name: StructureMeasure(take(label == value), *_by_slice(label == value, axis), count_components(label == value))
        for name, value in meta.structures.items() if value in found.values
    }
    return CaseMeasure(
        case.identifier, tuple(shape), _nonzero_shape(data), tuple(volume.spacing), value_range, take(foreground),
        shape[axis], _slices_with(foreground, axis), _slices_with(known, axis), volume.ndim,
        letters, structures, len(case.images), len(case.images) == 1 and has_colours(data), bool(known.all()),
    )


def training_images(measures: Sequence[CaseMeasure]) -> dict[str, Any]:
    """Keys of :class:`samdpo.plans.TrainingImages`, of all labelled cases."""
    ranges, spacings = np.array([m.value_range for m in measures]), np.array([m.spacing for m in measures])
    files = {m.n_files for m in measures}
    return {
        "files_per_case": files.pop() if len(files) == 1 else 0,
        "coloured": all(m.coloured for m in measures),
        "value_range": np.stack([ranges[..., 0].min(0), ranges[..., 1].max(0)], 1).tolist(),
        "usual_range": np.median(ranges, axis=0).tolist(),
        "spacing_range": np.stack([spacings.min(0), spacings.max(0)], 1).tolist() if measures[0].ndim == 3 else [],
    }


def count_components(mask: np.ndarray, min_share: float = _COMPONENT_SHARE) -> int:
    """Connected parts of a mask that have ``min_share`` of the largest one's pixels.

    Parts that touch at a corner are one: 8 neighbours in a plane, 26 in space.
    """
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        return 0
    numbered, n = ndimage.label(mask[box[0]], structure=np.ones((3,) * mask.ndim))
    if n <= 1:
        return n
    sizes = np.bincount(numbered.reshape(-1))[1:]
    return int((sizes >= min_share * sizes.max()).sum())


def _slices_with(mask: np.ndarray, axis: int) -> int:
    return int(mask.any(axis=tuple(i for i in range(3) if i != axis)).sum())


def _by_slice(mask: np.ndarray, axis: int) -> tuple[list[float], list[int]]:
    slices = np.moveaxis(mask, axis, 0)
    area = slices[0].size
    box = ndimage.find_objects(slices.astype(np.uint8))[0]  # a structure fills a small part of a volume
    counts = [(one.sum(), one) for one in slices[box]]
    return [float(n / area) for n, _ in counts if n], [count_components(one) for n, one in counts if n]


def _sample(data: np.ndarray, generator: np.random.Generator, samples: int, mask: np.ndarray) -> np.ndarray:
    voxels = data[:, mask]
    if voxels.shape[1] > samples:
        voxels = voxels[:, generator.integers(0, voxels.shape[1], samples)]
    return voxels


def _nonzero_shape(data: np.ndarray) -> tuple[int, ...]:
    box = ndimage.find_objects((data != 0).any(axis=0).astype(np.uint8))[0]
    return tuple(s.stop - s.start for s in box)
