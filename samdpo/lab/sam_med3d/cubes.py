"""Cases as volumes of cubic voxels: from the stored slices, and probabilities back to them; patches of one structure.

SAM-Med3D was trained on volumes resampled to 1.5 mm, in patches of 128 voxels a side that see 192 mm. Here a patch sees
192 mm at every input size: the voxels of a smaller one are larger. Axes run x, y, z, as in its training. Patches are
drawn for training, and cut as prediction cuts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from samdpo.errors import DatasetError
from samdpo.model.batches import on_device
from samdpo.preprocessing.slicing import SliceGeometry
from samdpo.preprocessing.store import IGNORED, SliceStore

PATCH_MM = 192.0  # side of a patch: 128 voxels of 1.5 mm (Wang et al. 2023; its repository's prepare_data_from_nnUNet)
LONGEST_MM = 3000.0  # a person and more
_KEPT = 8  # cases in memory; one of 350 x 350 x 400 mm has 15 million voxels of 1.5 mm, 60 MB with its label
Place = tuple[int, int, int]  # voxel along x, y, z
PatchKey = tuple[str, int]  # case identifier, label of a structure
DrawnPatch = tuple[PatchKey, Place, tuple[int, ...]]  # where it starts, along which axes of (1, x, y, z) it is turned
BOX_SHARE = 0.5  # of the training patches: centred on the structure's box, as published; others on a voxel of it


@dataclass(frozen=True)
class CubeGrid:
    """Cubic voxels over the extent of a case, and the slices it is stored in.

    Attributes:
        geometry: of the slices.
        shape: (X, Y, Z) voxels.
    """

    geometry: SliceGeometry
    shape: Place

    @classmethod
    def of(cls, geometry: SliceGeometry, spacing: Sequence[float], size: int) -> CubeGrid:
        """The grid for a network with patches of ``size`` voxels.

        Args:
            geometry: of the slices.
            spacing: of native voxels, (z, y, x) mm.
            size: side of a patch, voxels.

        Raises:
            DatasetError: the volume would be larger than a person.
        """
        extent = [n * float(s) for n, s in zip(geometry.native_shape, spacing)]
        if max(extent) > LONGEST_MM:
            raise DatasetError(
                f"The volume would be {' x '.join(f'{mm:g}' for mm in extent)} mm large (z, y, x). SAM-Med3D needs the "
                "true size of voxels; give a file whose header states it."
            )
        z, y, x = (max(1, round(mm * size / PATCH_MM)) for mm in extent)
        return cls(geometry, (x, y, z))

    def to_cubes(self, slices: np.ndarray) -> torch.Tensor:
        """Slices (S, H, W) -> (X, Y, Z) float32; trilinear, averaged first along axes that shrink to half or less."""
        volume = torch.from_numpy(self._to_xyz(slices)).float()[None, None]
        between = tuple(n if old >= 2 * n else old for old, n in zip(volume.shape[2:], self.shape))
        volume = F.interpolate(volume, size=between, mode="area")
        return F.interpolate(volume, size=self.shape, mode="trilinear", align_corners=False)[0, 0]

    def label_to_cubes(self, label: np.ndarray) -> torch.Tensor:
        """Labels (S, H, W) -> (X, Y, Z) int16; nearest neighbour."""
        volume = self._to_xyz(label.astype(np.int16))
        # Centres are whole steps and a half, so the voxel that holds one is the nearest.
        x, y, z = (
            np.minimum(((np.arange(n) + 0.5) * old / n).astype(np.intp), old - 1)
            for old, n in zip(volume.shape, self.shape)
        )
        return torch.from_numpy(np.ascontiguousarray(volume[np.ix_(x, y, z)]))

    def to_slices(self, probabilities: torch.Tensor, indices: range) -> np.ndarray:
        """Probabilities (L, X, Y, Z) -> (s, L, H, W) float32 of some slices; trilinear."""
        stack = probabilities.permute(0, 3, 2, 1).movedim(self.geometry.axis + 1, 1)  # (L, S', rows, columns)
        n_planes = stack.shape[1]
        source = (torch.tensor(list(indices)) + 0.5) * n_planes / self.geometry.n_slices - 0.5
        source = source.clamp(0, n_planes - 1)
        below = source.long()
        weight = (source - below)[None, :, None, None]
        above = (below + 1).clamp(max=n_planes - 1)
        planes = stack[:, below].float() * (1 - weight) + stack[:, above].float() * weight
        side = self.geometry.image_size
        resized = F.interpolate(planes, size=(side, side), mode="bilinear", align_corners=False)
        return resized.transpose(0, 1).contiguous().numpy()

    def voxel(self, fraction: Sequence[float]) -> Place:
        """The voxel at a fraction (x, y, z) of the extent, each in [0, 1]."""
        x, y, z = (min(max(int(f * n), 0), n - 1) for f, n in zip(fraction, self.shape))
        return x, y, z

    def fraction(self, voxel: Sequence[float]) -> list[float]:
        """The fraction (x, y, z) of the extent at which a voxel's centre lies."""
        return [(float(v) + 0.5) / n for v, n in zip(voxel, self.shape)]

    def _to_xyz(self, slices: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(slices, 0, self.geometry.axis).transpose(2, 1, 0))


@dataclass(frozen=True)
class Cubes:
    """A case as cubic voxels.

    Attributes:
        image: (X, Y, Z) float16 in [0, 1], the mean of the network's three channels.
        label: (X, Y, Z) int16; None where the case has none.
        grid: the way back.
    """

    image: torch.Tensor
    label: torch.Tensor | None
    grid: CubeGrid


class CubeStore:
    """Cases of a slice store as cubic voxels; a few stay in memory.

    Args:
        slices: the preprocessed slices.
        size: side of a patch, voxels.
    """

    def __init__(self, slices: SliceStore, size: int) -> None:
        self.slices, self.size = slices, size
        self._kept = lru_cache(_KEPT)(self._read)

    def get(self, case: str) -> Cubes:
        """One case."""
        return self._kept(case)

    def _read(self, case: str) -> Cubes:
        indices = range(self.slices.n_slices(case))
        grid = CubeGrid.of(self.slices.geometry(case), self.slices.properties(case)["spacing"], self.size)
        image = grid.to_cubes(np.stack([self.slices.image(case, i).mean(0) for i in indices])).half()
        if not self.slices.has_label(case):
            return Cubes(image, None, grid)
        return Cubes(image, grid.label_to_cubes(np.stack([self.slices.label(case, i) for i in indices])), grid)


def cut_patch(volume: torch.Tensor, start: Sequence[int], size: int) -> torch.Tensor:
    """The cube (size, size, size) of a volume (X, Y, Z) that begins at ``start``; 0 where it reaches beyond."""
    patch = volume.new_zeros((size,) * 3)
    inner, outer = overlap(volume.shape, start, size)
    patch[inner] = volume[outer]
    return patch


def overlap(shape: Sequence[int], start: Sequence[int], size: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a cube that begins at ``start`` and a volume of ``shape`` meet: slices of the first, and of the second."""
    ranges = [(min(max(0, s), n), max(0, min(s + size, n))) for s, n in zip(start, shape)]
    outer = tuple(slice(low, max(low, high)) for low, high in ranges)
    return tuple(slice(o.start - s, o.stop - s) for o, s in zip(outer, start)), outer


def innermost(mask: np.ndarray) -> tuple[int, ...]:
    """The voxel of a mask that is farthest from what is outside it.

    Args:
        mask: (X, Y, Z) bool, with at least one voxel.
    """
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    depth = ndimage.distance_transform_edt(np.pad(mask[box], 1))[1:-1, 1:-1, 1:-1]
    deepest = np.unravel_index(int(depth.argmax()), depth.shape)
    return tuple(int(d) + s.start for d, s in zip(deepest, box))


@dataclass
class PatchBatch:
    """Tensors of one step, patches of side s.

    Attributes:
        keys: case and structure of each patch.
        images: (B, 1, s, s, s) float32 in [0, 1], 0 outside the volume.
        truth: (B, 1, s, s, s) bool.
        counted: (B, 1, s, s, s) bool, False on voxels of the label ``ignore``.
    """

    keys: list[PatchKey]
    images: torch.Tensor
    truth: torch.Tensor
    counted: torch.Tensor

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str) -> PatchBatch:
        """The same tensors on another device."""
        return on_device(self, device)


class PatchSamples:
    """Patches of a fold.

    Args:
        slices: the preprocessed slices.
        labels: of the plan's structures.
        size: side of a patch, voxels.
    """

    def __init__(self, slices: SliceStore, labels: Sequence[int], size: int) -> None:
        self.cubes, self.labels, self.size = CubeStore(slices, size), list(labels), size
        self._centroids: dict[str, dict[int, list[float]]] = {}

    def keys(self, cases: Sequence[str]) -> list[PatchKey]:
        """Each case with each structure that is in it."""
        return [(case, label) for case in cases for label in self.centroids(case)]

    def centroids(self, case: str) -> dict[int, list[float]]:
        """Of each structure of a case the centroid, as a fraction (x, y, z) of the volume."""
        if case not in self._centroids:
            cubes = self.cubes.get(case)
            found = {label: (cubes.label == label).nonzero() for label in self.labels}
            self._centroids[case] = {
                label: cubes.grid.fraction(places.double().mean(0).tolist())
                for label, places in found.items() if len(places)
            }
        return self._centroids[case]

    def mean_positions(self, cases: Sequence[str]) -> dict[int, list[float]]:
        """Of each structure the mean centroid over the cases that show it, as a fraction (x, y, z) of the volume."""
        every = [self.centroids(case) for case in cases]
        return {
            label: np.mean([of[label] for of in every if label in of], axis=0).tolist()
            for label in self.labels if any(label in of for of in every)
        }

    def places(self, keys: Sequence[PatchKey], generator: torch.Generator) -> list[DrawnPatch]:
        """Draw patches for training, turned over along each axis by chance, as published.

        A click says which structure is meant, so a left kidney may look like a right one.
        """
        starts = [self._draw_start(key, generator) for key in keys]
        turned = [tuple(a + 1 for a in range(3) if torch.rand((), generator=generator) < 0.5) for _ in keys]
        return list(zip(keys, starts, turned))

    def batch(self, recipe: Sequence[DrawnPatch]) -> PatchBatch:
        """Cut what :meth:`places` drew."""
        keys, starts, turned = zip(*recipe)
        batch = self._batch(keys, starts)
        for row, axes in enumerate(turned):
            for tensor in (batch.images, batch.truth, batch.counted):
                tensor[row] = tensor[row].flip(axes)
        return batch

    def draw(self, keys: Sequence[PatchKey], generator: torch.Generator) -> PatchBatch:
        """Patches for training."""
        return self.batch(self.places(keys, generator))

    def around(self, keys: Sequence[PatchKey], positions: Mapping[int, Sequence[float]]) -> PatchBatch:
        """Patches as prediction cuts them: centred on where the structure's click falls."""
        starts = []
        for case, label in keys:
            place = self.cubes.get(case).grid.voxel(positions[label])
            starts.append(self._around(place))
        return self._batch(keys, starts)

    def _draw_start(self, key: PatchKey, generator: torch.Generator) -> Place:
        case, label = key
        mask = self.cubes.get(case).label == label
        places = mask.nonzero()
        if torch.rand((), generator=generator) < BOX_SHARE:
            centre = (places.amin(0) + places.amax(0) + 1) // 2
            start = self._around(centre.tolist())
            if cut_patch(mask, start, self.size).any():  # not where the box of two parts has a gap
                return start
        return self._around(places[int(torch.randint(len(places), (), generator=generator))].tolist())

    def _around(self, place: Sequence[int]) -> Place:
        x, y, z = (p - self.size // 2 for p in place)
        return x, y, z

    def _batch(self, keys: Sequence[PatchKey], starts: Sequence[Place]) -> PatchBatch:
        images, truths, counted = [], [], []
        for (case, label), start in zip(keys, starts):
            cubes = self.cubes.get(case)
            known = cut_patch(cubes.label, start, self.size)
            images.append(cut_patch(cubes.image, start, self.size).float())
            truths.append(known == label)
            counted.append(known != IGNORED)
        return PatchBatch(list(keys), *(torch.stack(of)[:, None] for of in (images, truths, counted)))
