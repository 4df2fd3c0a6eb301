"""Labelled slices without prompts: images, and of every structure of the plan its mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from samdpo.model.batches import Recipe, on_device, stacked
from samdpo.model.slice_labels import SliceKey, counted_rows, learnable, read_image, read_truth
from samdpo.model.views import IDENTITY, View
from samdpo.preprocessing.store import SliceStore


@dataclass(frozen=True)
class MaskSample:
    """One slice under a view.

    Attributes:
        key: case and slice.
        view: parameters under which it is seen.
        image: (3, H, W) in [0, 1].
        truth: (L, H, W) bool, structures in the plan's order, empty where one is not shown; None where the case has
            no label or none is wanted.
        counted: (H, W) bool, False on pixels of the label ``ignore``; None where there are none.
    """

    key: SliceKey
    view: View
    image: torch.Tensor
    truth: torch.Tensor | None
    counted: torch.Tensor | None = None


@dataclass
class MaskBatch:
    """Tensors of one step; a row of ``truth`` and ``counted`` is one structure of one slice, slice by slice.

    Attributes:
        samples: the B slices.
        images: (B, 3, H, W) in [0, 1].
        truth: (B * L, H, W) bool, or None.
        counted: (B * L, H, W) bool, or None where all pixels count.
    """

    samples: list[MaskSample]
    images: torch.Tensor
    truth: torch.Tensor | None
    counted: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.samples)

    def to(self, device: torch.device | str) -> MaskBatch:
        """The same tensors on another device, sent without waiting where they are pinned; samples stay."""
        return on_device(self, device)


class MaskSamples:
    """Slices of a fold, read one by one.

    Args:
        slices: the preprocessed slices.
        labels: label id of each structure, in the plan's order.
    """

    def __init__(self, slices: SliceStore, labels: Sequence[int]) -> None:
        self.slices, self.labels = slices, list(labels)

    def keys(self, cases: Sequence[str]) -> list[SliceKey]:
        """Every slice of ``cases``, also those that show no structure; not those that are ignored all over."""
        return learnable(self.slices, cases)

    def sample(self, key: SliceKey, view: View = IDENTITY, with_truth: bool = True) -> MaskSample:
        """Read one slice and show it under ``view``."""
        image = read_image(self.slices, key, view)
        truth, counted = read_truth(self.slices, key, view, self.labels) if with_truth else (None, None)
        return MaskSample(key, view, image, truth, counted)

    def batch(self, recipe: Recipe) -> MaskBatch:
        """Read and stack the samples of a step."""
        return self.collate([self.sample(key, view) for key, view in recipe])

    def collate(self, samples: Sequence[MaskSample]) -> MaskBatch:
        """Stack samples, which then are views of the batch; the truth is kept only when every sample has one."""
        samples, images, truth = stacked(samples)
        return MaskBatch(
            samples=samples,
            images=images,
            truth=truth,
            counted=counted_rows(samples, [len(self.labels)] * len(samples)),
        )
