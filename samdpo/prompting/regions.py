"""Coarse mask to geometry: largest components, their boxes, points inside, and boxes as hypotheses (Sec. 3.1).

Boxes are float32 (x0, y0, x1, y1) in pixels of the slice; x1 and y1 are the first pixel after the component, so
that a box's area is the number of pixels it covers.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

_EIGHT = np.ones((3, 3), bool)  # neighbours by edge or corner
_PEAK = 98  # percentile of a component's saliency: one bright pixel does not decide
_CUTS = (0.3, 0.5, 0.65, 0.8)  # of the map's peak
_OVERLAP = 0.7  # IoU from which two boxes are one hypothesis
_PER_CUT = 3


def most_salient_component(mask: np.ndarray, probability: np.ndarray, min_share: float) -> np.ndarray:
    """Keep the one component whose saliency peaks highest, among those of at least ``min_share`` of the largest one.

    For a structure that has one component: a small bright mass is likelier than a large dim shadow.

    Args:
        mask: (H, W) bool.
        probability: (H, W) saliency.
        min_share: share of the largest component's area below which a component does not compete.

    Returns:
        (H, W) uint8: 0 outside, 1 in the component.
    """
    regions = largest_components(mask, np.iinfo(np.uint8).max, min_share)
    peaks = [np.percentile(probability[regions == index], _PEAK) for index in range(1, regions.max() + 1)]
    return (regions == int(np.argmax(peaks)) + 1).astype(np.uint8) if peaks else regions


def largest_components(mask: np.ndarray, count: int, min_share: float) -> np.ndarray:
    """Keep the ``count`` largest connected components that have at least ``min_share`` of the largest one's area.

    Args:
        mask: (H, W) bool.
        count: components at most (lungs: 2).
        min_share: share of the largest component's area below which a component is dropped.

    Returns:
        (H, W) uint8: 0 outside, 1 in the largest component, 2 in the next …
    """
    labelled, found = ndimage.label(mask, structure=_EIGHT)
    regions = np.zeros(mask.shape, np.uint8)
    if not found:
        return regions
    areas = np.bincount(labelled.ravel(), minlength=found + 1)[1:]
    for rank, index in enumerate(np.argsort(-areas, kind="stable")[:count]):
        if areas[index] < min_share * areas.max():
            break
        regions[labelled == index + 1] = rank + 1
    return regions


def boxes_of(regions: np.ndarray) -> np.ndarray:
    """Boxes of the components, in their order: (K, 4) float32."""
    boxes = []
    for index, found in enumerate(ndimage.find_objects(regions), start=1):
        if found is None or index == 0:
            continue
        rows, columns = found
        boxes.append((columns.start, rows.start, columns.stop, rows.stop))
    return np.asarray(boxes, np.float32).reshape(-1, 4)


def points_in(regions: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw ``count`` distinct pixels of the components: (P, 2) float32 xy; fewer where there are fewer pixels.

    Each component gets its share by area, at least one: two lungs of unlike size are both pointed at.
    """
    areas = np.bincount(regions.ravel(), minlength=2)[1:]
    areas = areas[areas > 0]
    if not len(areas) or count <= 0:
        return np.zeros((0, 2), np.float32)
    shares = np.maximum(1, np.floor(count * areas / areas.sum())).astype(int)
    shares[0] += max(0, count - shares.sum())
    points = []
    for index, share in enumerate(shares, start=1):
        rows, columns = np.nonzero(regions == index)
        chosen = generator.choice(len(rows), size=min(share, len(rows)), replace=False)
        points.append(np.stack([columns[chosen], rows[chosen]], axis=1))
    return np.concatenate(points)[:count].astype(np.float32)


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (N, 4) with boxes (M, 4): (N, M) float32."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    intersection = np.prod(np.clip(high - low, 0, None), axis=-1)
    area = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=-1)
    other = np.prod(np.clip(others[:, 2:] - others[:, :2], 0, None), axis=-1)
    return (intersection / np.maximum(area[:, None] + other[None] - intersection, 1e-6)).astype(np.float32)


def mask_iou(masks: Tensor, others: Tensor, both_empty: float = 0.0) -> Tensor:
    """Intersection over union of every mask with every other.

    Args:
        masks: (..., M, H, W) bool.
        others: (..., K, H, W) bool.
        both_empty: what two masks without a pixel are given.

    Returns:
        (..., M, K) float32.
    """
    one, other = masks.flatten(-2).float(), others.flatten(-2).float()
    inside = one @ other.transpose(-1, -2)
    union = one.sum(-1)[..., :, None] + other.sum(-1)[..., None, :] - inside
    return torch.where(union == 0, both_empty, inside / union.clamp(min=1))


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
