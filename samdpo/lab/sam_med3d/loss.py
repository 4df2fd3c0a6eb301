"""Dice and cross-entropy, as SAM-Med3D was trained (MONAI's ``DiceCELoss(sigmoid=True, squared_pred=True)``)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_SMOOTH = 1e-5  # MONAI's


def dice_ce_loss(logits: torch.Tensor, truth: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean over samples of 1 - 2 sum(p y) / (sum(p^2) + sum(y)) plus the mean binary cross-entropy.

    Args:
        logits: (B, 1, s, s, s).
        truth: (B, 1, s, s, s) bool.
        counted: (B, 1, s, s, s) bool; other voxels have no part in either sum.
    """
    weight, target = counted.flatten(1).float(), truth.flatten(1).float()
    flat = logits.flatten(1).float()
    probability = flat.sigmoid() * weight
    target = target * weight
    overlap = (probability * target).sum(1)
    dice = 1 - (2 * overlap + _SMOOTH) / (probability.square().sum(1) + target.sum(1) + _SMOOTH)
    entropy = F.binary_cross_entropy_with_logits(flat, target, weight=weight, reduction="none").sum(1)
    return (dice + entropy / weight.sum(1).clamp(min=1)).mean()
