"""Candidates that a person can tell apart, and how much they differ."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from samdpo.preferences.candidates import DUPLICATE_IOU

TRIES = 8
"""Draws in place of near-duplicates; what is still one after them stays."""


def pairwise_iou(masks: Tensor) -> Tensor:
    """(K, H, W) bool -> (K, K) IoU of every pair; 1 where both are empty."""
    flat = masks.flatten(1).float()
    inside = flat @ flat.T
    area = flat.sum(1)
    union = area[:, None] + area[None, :] - inside
    return torch.where(union == 0, 1.0, inside / union.clamp(min=1))


def disagreement(masks: Tensor) -> float:
    """1 - mean IoU over the pairs of K >= 2 masks (K, H, W) bool: 0 where all are equal, 1 where all are disjoint."""
    k = len(masks)
    first, second = torch.triu_indices(k, k, offset=1)
    return float(1 - pairwise_iou(masks)[first, second].mean())


def without_near_duplicates(masks: Tensor, draw: Callable[[], Tensor], tries: int = TRIES) -> Tensor:
    """Draw anew what overlaps an earlier candidate by more than 95% (IoU): to a person they look the same.

    Args:
        masks: (K, H, W) bool.
        draw: gives (K, H, W) other candidates each time.
        tries: draws at most.

    Returns:
        (K, H, W) bool, the first of each kind where it was.
    """
    masks = masks.clone()
    for _ in range(tries):
        repeats = torch.tril(pairwise_iou(masks) > DUPLICATE_IOU, diagonal=-1).any(1)
        if not repeats.any():
            break
        masks[repeats] = draw()[repeats]
    return masks
