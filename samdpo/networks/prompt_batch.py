"""The prompts of a batch of images as tensors: one row per (image, structure)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PromptBatch:
    """N prompts of B images. What is not valid has no influence, whatever its value.

    Attributes:
        image_index: (N,) int64, row of the image batch that each prompt belongs to.
        boxes: (N, K, 4) float32, x0 y0 x1 y1 in pixels of the slice.
        boxes_valid: (N, K) bool.
        points: (N, P, 2) float32, x y in pixels of the slice.
        points_valid: (N, P) bool.
        text: (N, D) float32, embedding of the structure's sentences.
        text_valid: (N,) bool.
        mask_logits: (N, H, W) float32, saliency before the sigmoid; H and W are the slice's size.
        mask_valid: (N,) bool.
        points_inside: (N, P) bool, False of a point beside the structure; None where all are on it.
    """

    image_index: torch.Tensor
    boxes: torch.Tensor
    boxes_valid: torch.Tensor
    points: torch.Tensor
    points_valid: torch.Tensor
    text: torch.Tensor
    text_valid: torch.Tensor
    mask_logits: torch.Tensor
    mask_valid: torch.Tensor
    points_inside: torch.Tensor | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(tensor) for name, tensor in vars(self).items() if tensor is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"every tensor of a PromptBatch needs one row per prompt, found {lengths}")

    def __len__(self) -> int:
        """Number of prompts N."""
        return len(self.image_index)

    @property
    def slice_size(self) -> tuple[int, int]:
        """(H, W) of the slices, in whose pixels boxes and points are counted."""
        return tuple(self.mask_logits.shape[-2:])

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same prompts on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def select(self, index: torch.Tensor | slice) -> PromptBatch:
        """Some of the prompts, by indices, bool mask or slice; ``image_index`` still counts in the same images."""
        return self._map(lambda tensor: tensor[index])

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> PromptBatch:
        return PromptBatch(**{name: change(tensor) for name, tensor in vars(self).items() if tensor is not None})
