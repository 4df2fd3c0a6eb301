"""Patches of one structure each: drawn for training, and as prediction cuts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from samdpo.lab.sam_med3d.cubes import CubeStore, Place, cut_patch
from samdpo.model.batches import on_device
from samdpo.preprocessing.store import IGNORED, SliceStore

PatchKey = tuple[str, int]  # case identifier, label of a structure
DrawnPatch = tuple[PatchKey, Place, tuple[int, ...]]  # where it starts, along which axes of (1, x, y, z) it is turned
BOX_SHARE = 0.5  # of the training patches: centred on the structure's box, as published; others on a voxel of it


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
