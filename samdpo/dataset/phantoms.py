"""Phantom datasets in nnU-Net's raw layout: images with the texture of real ones, free of anyone's data.

Every case is drawn by ``numpy.random.default_rng`` from the seed and the case's number, so the same seed gives the
same files, and the first cases of a larger dataset are those of a smaller one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from samdpo.dataset.images import write_label
from samdpo.dataset.phantom_ct import ORGANS, ct_phantom
from samdpo.dataset.phantom_ultrasound import ultrasound_phantom
from samdpo.dataset.phantom_xray import xray_phantom
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.files import atomic_path, write_json

log = logging.getLogger(__name__)

Kind = Literal["xray", "ultrasound", "ct"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Sample = tuple[np.ndarray, np.ndarray, "tuple[float, ...] | None"]  # image, label, spacing (z, y, x) of a volume


@dataclass(frozen=True)
class PhantomKind:
    """One kind of phantom: what its dataset.json says and who draws it."""

    name: str  # in the dataset's name: Dataset901_PhantomXray
    channel: str
    file_ending: str
    labels: dict[str, int]
    hints: dict[str, dict[str, Any]]
    size: tuple[int, ...]  # default, (Y, X) or (Z, Y, X)
    draw: Callable[[np.random.Generator, tuple[int, ...]], Sample]


def _xray(rng: np.random.Generator, size: tuple[int, ...]) -> Sample:
    return (*xray_phantom(rng, (size[0], size[1])), None)


def _ultrasound(rng: np.random.Generator, size: tuple[int, ...]) -> Sample:
    return (*ultrasound_phantom(rng, (size[0], size[1])), None)


def _ct(rng: np.random.Generator, size: tuple[int, ...]) -> Sample:
    return ct_phantom(rng, (size[0], size[1], size[2]))


_ORGAN_TEXTS = {
    "spleen": "The spleen is a smooth oval organ in the left upper abdomen behind the stomach.",
    "liver": "The liver is the largest organ, a wedge of even density in the right upper abdomen.",
    "right kidney": "The right kidney is a bean-shaped organ beside the spine below the liver.",
    "left kidney": "The left kidney is a bean-shaped organ beside the spine below the spleen.",
    "aorta": "The aorta is a round vessel in front of the spine, slightly left of the midline.",
}

_KINDS: dict[Kind, PhantomKind] = {
    "xray": PhantomKind(
        name="PhantomXray",
        channel="X-ray",
        file_ending=".png",
        labels={"background": 0, "lung": 1},
        hints={
            "lung": {
                "phrase": "lungs in a chest X-ray",
                "question": "What is the shape of the lungs and where are they located?",
                "description": "The lungs are two large dark fields on either side of the bright spine and heart, "
                "bounded by the ribs and the diaphragm.",
                "components": 2,
                "may_be_absent": False,
            }
        },
        size=(320, 288),
        draw=_xray,
    ),
    "ultrasound": PhantomKind(
        name="PhantomUltrasound",
        channel="ultrasound",
        file_ending=".png",
        labels={"background": 0, "breast tumor": 1},
        hints={
            "breast tumor": {
                "phrase": "dark oval mass in a breast ultrasound",
                "question": "What is the shape of the breast tumor and where is it located?",
                "description": "A breast tumor is a dark mass with a visible margin inside brighter glandular tissue, "
                "often with a shadow or a brighter band below it.",
                "components": 1,
                "may_be_absent": False,
            }
        },
        size=(288, 320),
        draw=_ultrasound,
    ),
    "ct": PhantomKind(
        name="PhantomCT",
        channel="CT",
        file_ending=".nii.gz",
        labels={"background": 0, **{name: value for value, name in enumerate(ORGANS, 1)}},
        hints={
            name: {
                "phrase": f"{name} in an abdominal CT",
                "description": _ORGAN_TEXTS[name],
                "components": 1,
                "may_be_absent": True,
            }
            for name in ORGANS
        },
        size=(40, 128, 128),
        draw=_ct,
    ),
}


def make_phantom_dataset(
    kind: Kind,
    folder: Path | str,
    n_labelled: int,
    n_unlabelled: int = 0,
    n_test: int = 0,
    seed: int = 0,
    size: tuple[int, ...] | None = None,
    progress: bool = False,
) -> None:
    """Write a phantom dataset with imagesTr, labelsTr, imagesUl, imagesTs, labelsTs and dataset.json.

    Args:
        kind: "xray", "ultrasound" or "ct".
        folder: the dataset's folder, ``nnUNet_raw/Dataset901_PhantomXray``; it must be empty or absent.
        n_labelled: cases with label.
        n_unlabelled: images without label.
        n_test: cases of imagesTs, with their truth in labelsTs.
        seed: of all random draws.
        size: (Y, X) of pictures or (Z, Y, X) of volumes in pixels; None is the kind's default.
        progress: show a bar.

    Raises:
        ConfigurationError: unknown kind, bad size or number.
        DatasetError: the folder holds files already.
    """
    entry = phantom_kind(kind)
    folder = Path(folder)
    size = _checked_size(kind, entry, size)
    if n_labelled < 1 or n_unlabelled < 0 or n_test < 0:
        raise ConfigurationError(
            f"A phantom dataset needs at least 1 labelled case and no negative numbers, found {n_labelled} labelled, "
            f"{n_unlabelled} unlabelled, {n_test} test cases."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(
            f"{folder} exists and is not empty, so no phantoms are written there. Choose another folder, "
            "or delete this one first."
        )
    parts = [("Tr", "labelsTr")] * n_labelled + [("Ul", None)] * n_unlabelled + [("Ts", "labelsTs")] * n_test
    numbers = dict.fromkeys(("Tr", "Ul", "Ts"), 0)
    if progress:
        from tqdm import tqdm

        parts = tqdm(parts, desc=f"{kind} phantoms", unit="case")
    for part, labels_folder in parts:
        number = numbers[part]
        numbers[part] += 1
        image, label, spacing = draw_phantom(kind, seed, part, number, size)
        name = f"{kind}_{part.lower()}_{number + 1:03d}"
        _write(image, folder / f"images{part}" / f"{name}_0000{entry.file_ending}", spacing)
        if labels_folder:
            _write(label, folder / labels_folder / f"{name}{entry.file_ending}", spacing)
    # Last, so that a folder without dataset.json is one whose making was interrupted.
    write_json(
        folder / "dataset.json",
        {
            "channel_names": {"0": entry.channel},
            "labels": entry.labels,
            "numTraining": n_labelled,
            "file_ending": entry.file_ending,
            "description": f"Phantoms drawn by samdpo_make_phantoms {kind} --seed {seed}: no patient's data.",
            "samdpo": {"structures": entry.hints},
        },
    )
    log.debug("wrote %d %s phantoms to %s", sum(numbers.values()), kind, folder)


def draw_phantom(kind: Kind, seed: int, part: str, number: int, size: tuple[int, ...] | None = None) -> Sample:
    """One phantom: image, label of the same shape, spacing (z, y, x) in mm or None for a picture.

    ``part`` ("Tr", "Ul", "Ts") and ``number`` choose the case; the numbers of cases elsewhere do not matter.
    """
    entry = phantom_kind(kind)
    rng = np.random.default_rng([seed, ("Tr", "Ul", "Ts").index(part), number])
    return entry.draw(rng, _checked_size(kind, entry, size))


def phantom_kind(kind: str) -> PhantomKind:
    """The entry of a kind; raises ConfigurationError that lists the kinds there are."""
    if kind not in KINDS:
        raise ConfigurationError(f"There are no phantoms of the kind {kind!r}. Choose from {', '.join(KINDS)}.")
    return _KINDS[kind]


def _checked_size(kind: str, entry: PhantomKind, size: tuple[int, ...] | None) -> tuple[int, ...]:
    if size is None:
        return entry.size
    lowest = (12, 48, 48)[-len(entry.size) :]
    if len(size) != len(entry.size) or any(n < low for n, low in zip(size, lowest)):
        axes = "rows columns" if len(entry.size) == 2 else "slices rows columns"
        raise ConfigurationError(
            f"The size of {kind} phantoms must be {len(entry.size)} numbers ({axes}) of at least "
            f"{' '.join(map(str, lowest))}, found {' '.join(map(str, size))}."
        )
    return tuple(int(n) for n in size)


def _write(values: np.ndarray, path: Path, spacing: tuple[float, ...] | None) -> None:
    """Pictures through the package's writer; volumes keep their sign (HU), which labels do not have."""
    if spacing is None:
        write_label(values[None], path, {})
        return
    import SimpleITK as sitk  # noqa: N813

    volume = sitk.GetImageFromArray(values)
    volume.SetSpacing([float(s) for s in spacing[::-1]])
    with atomic_path(path) as temporary:
        sitk.WriteImage(volume, str(temporary), useCompression=True)
