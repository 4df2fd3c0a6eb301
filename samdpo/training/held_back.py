"""What is measured on held-back labelled slices: Dice at several mask cuts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

CUTS = np.array([0.2, 0.3, 0.4, 0.5, 0.6])
"""Probabilities among which the mask cut is chosen."""


def dice_at_cuts(probabilities: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """Dice of (N, H, W) probabilities against bool truth at every cut of ``CUTS``: (N, len(CUTS))."""
    reference = truth.flatten(1).float()
    flat = probabilities.flatten(1)
    columns = []
    for cut in CUTS:
        prediction = (flat > float(cut)).float()
        total = prediction.sum(1) + reference.sum(1)
        columns.append(torch.where(total > 0, 2 * (prediction * reference).sum(1) / total.clamp(min=1), torch.nan))
    return torch.stack(columns, 1).numpy()


def best_cut(dices: np.ndarray) -> tuple[float, float]:
    """The highest mean Dice of (N, len(CUTS)) and its cut; rows and cuts without a number do not count.

    Returns:
        (Dice, cut); Dice is NaN where there is no number at all.
    """
    means = np.array([nan_mean(column) for column in dices.T])
    if np.isnan(means).all():
        return float("nan"), float(CUTS[len(CUTS) // 2])
    best = int(np.nanargmax(means))
    return float(means[best]), float(CUTS[best])


def nan_mean(values: Sequence[float]) -> float:
    """Mean of what is not NaN; NaN where nothing is."""
    numbers = [v for v in values if not np.isnan(v)]
    return float(np.mean(numbers)) if numbers else float("nan")
