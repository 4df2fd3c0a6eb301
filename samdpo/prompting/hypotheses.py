"""Boxes of other places where a structure may be: the components of its saliency at several cuts."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from samdpo.prompting.regions import box_iou, boxes_of, largest_components

_CUTS = (0.3, 0.5, 0.65, 0.8)  # of the map's peak
_OVERLAP = 0.7  # IoU from which two boxes are one hypothesis
_PER_CUT = 3


def box_hypotheses(
    probability: np.ndarray, coarse: np.ndarray, components: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct boxes, best first.

    The first hypothesis is the coarse mask's box, or the box around all its components for a structure that has
    several; then come boxes from the components at several cuts, overlapping ones dropped.

    Args:
        probability: (H, W) saliency probability.
        coarse: (H, W) uint8 components of the coarse mask, see :func:`largest_components`.
        components: components the structure has at most.
        count: hypotheses at most.

    Returns:
        boxes (K, 4) float32 xyxy and scores (K,) float32 in [0, 1], falling after the first.
    """
    boxes = [_around(boxes_of(coarse))] if coarse.any() else []
    for cut in _CUTS:
        mask = probability >= cut * probability.max()
        if components > 1:
            boxes += [_around(boxes_of(largest_components(mask, components, 0.15)))]
        else:
            boxes += list(boxes_of(largest_components(mask, _PER_CUT, 0.1)))
    if not boxes:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    first, rest = boxes[:1], boxes[1:]
    ranked = first + sorted(rest, key=lambda box: -contrast(probability, box))
    kept: list[np.ndarray] = []
    for box in ranked:
        if len(kept) < count and (not kept or box_iou(np.stack(kept), box[None]).max() < _OVERLAP):
            kept.append(box)
    scores = np.array([contrast(probability, box) for box in kept], np.float32)
    return np.stack(kept).astype(np.float32), np.minimum.accumulate(scores)


def contrast(probability: np.ndarray, box: np.ndarray) -> float:
    """Mean probability inside a box minus that of the ring around it, mapped to [0, 1]."""
    height = probability.shape[0]
    x0, y0, x1, y1 = (int(v) for v in box)
    margin_x, margin_y = max(2, (x1 - x0) // 4), max(2, (y1 - y0) // 4)
    outer = probability[max(0, y0 - margin_y) : min(height, y1 + margin_y), max(0, x0 - margin_x) : x1 + margin_x]
    inner = probability[y0:y1, x0:x1]
    ring = (outer.sum() - inner.sum()) / max(1, outer.size - inner.size)
    return float(np.clip((inner.mean() - ring + 1) / 2, 0, 1))


def _around(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])


def least_mask(probability: np.ndarray, share: float) -> np.ndarray:
    """(H, W) bool: the ``share`` most salient pixels, at least one; a present structure never has an empty mask."""
    count = max(1, round(share * probability.size))
    smooth = ndimage.uniform_filter(probability, 5)
    return smooth >= np.partition(smooth.ravel(), -count)[-count]
