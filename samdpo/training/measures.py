"""What is measured while training: Dice at several mask cuts, and how sure masks are of themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch

Key = TypeVar("Key")

CUTS = np.array([0.2, 0.3, 0.4, 0.5, 0.6])
"""Probabilities among which the mask cut is chosen."""
PERCENTILE = 10  # of the training slices: 9 of 10 are surer


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


def confidence_thresholds(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Of each structure the 10th percentile of its confidence on training slices; below it a person should look."""
    return {name: round(float(np.percentile(values, PERCENTILE)), 4) for name, values in found.items()}


def evenly(keys: Sequence[Key], most: int) -> list[Key]:
    """Up to ``most`` of ``keys``, evenly chosen."""
    return [keys[i] for i in np.linspace(0, len(keys) - 1, min(len(keys), most)).round().astype(int)]
