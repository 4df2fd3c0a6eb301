"""Coarse mask to geometry: largest components, their boxes, points inside, and boxes as hypotheses (Sec. 3.1).

Boxes are float32 (x0, y0, x1, y1) in pixels of the slice; x1 and y1 are the first pixel after the component, so
that a box's area is the number of pixels it covers.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

_EIGHT = np.ones((3, 3), bool)  # neighbours by edge or corner


_PEAK = 98  # percentile of a component's saliency: one bright pixel does not decide


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
