"""Slices that are labelled in part: pixels of dataset.json's label ``ignore`` teach nothing and are not counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as functional

from samdpo.preprocessing.store import IGNORED
from samdpo.prompting.calibration import StructureCalibration, calibrate


def anything_known(label: np.ndarray | None) -> bool:
    """Whether a label (H, W) says something of at least one pixel."""
    return label is not None and bool((np.asarray(label) != IGNORED).any())


def known_shares(labels: Sequence[np.ndarray], size: tuple[int, int]) -> torch.Tensor | None:
    """Share of each feature pixel of which something is known: (N, h, w) of labels (H, W); None where all is known."""
    known = [np.asarray(label) != IGNORED for label in labels]
    if all(one.all() for one in known):
        return None
    return functional.adaptive_avg_pool2d(torch.from_numpy(np.stack(known)).float(), size)


def calibrate_known(
    raw: Sequence[np.ndarray], masks: Sequence[np.ndarray], known: np.ndarray | None, may_be_absent: bool
) -> StructureCalibration:
    """:func:`samdpo.prompting.calibration.calibrate` on the pixels of which something is known.

    A slice that is known in part and shows none of the structure there may show it elsewhere: it is left out.

    Args:
        raw: (h, w) raw similarities, one a slice.
        masks: (h, w) bool, the truth on the same grid.
        known: (N, h, w) bool; None where all is known.
        may_be_absent: see there.
    """
    if known is None:
        return calibrate(raw, masks, may_be_absent)
    masks = [mask & sure for mask, sure in zip(masks, known)]
    rows = [i for i, mask in enumerate(masks) if mask.any() or known[i].all()]

    def repeated(array: np.ndarray, row: int) -> np.ndarray:
        # Calibration looks at pixels wherever they are, and weighs slices by their number of pixels: those that are
        # known stand for the others.
        return np.resize(array[known[row]], array.shape)

    return calibrate([repeated(raw[i], i) for i in rows], [repeated(masks[i], i) for i in rows], may_be_absent)
