"""What is left of a label map when every structure that is always one piece is one piece."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from acvl_utils.morphology.morphology_helper import remove_all_but_largest_component
from scipy import ndimage


def keep_largest_components(segmentation: np.ndarray, labels: Iterable[int]) -> np.ndarray:
    """Remove, in place, all but the largest connected part (26 neighbours) of some structures.

    Args:
        segmentation: (Z, Y, X) label ids; changed.
        labels: of the structures.

    Returns:
        ``segmentation``.
    """
    boxes = ndimage.find_objects(segmentation)
    for label in labels:
        box = boxes[label - 1] if 0 < label <= len(boxes) else None
        if box is None:
            continue
        part = segmentation[box]  # a structure fills a small part of a volume
        mask = part == label
        part[mask & ~remove_all_but_largest_component(mask, connectivity=3).astype(bool)] = 0
    return segmentation
