"""Items as the browser gets them: outlines as JSON, pixels as bytes, candidates in the order in which they are stored.

The first is the model's own choice. An outline is a polygon, which the browser draws as a line at the resolution of the
screen; slices, which are squashed to squares for the network, are shown as wide as they were taken.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from skimage.measure import find_contours

from samdpo.errors import DatasetError
from samdpo.preferences.records import Item
from samdpo.preprocessing.slicing import SliceGeometry
from samdpo.preprocessing.store import SliceStore

_KEPT = 64  # items whose outlines and pixels stay in memory: those being looked at or loaded ahead
_HIGHEST = 2**16 - 1
SUBPIXELS = 2  # coordinates are halves of a pixel: marching squares on a mask has no others

class Candidates(Protocol):
    """The part of :class:`samdpo.preferences.stored_candidates.StoredCandidates` that the page shows."""

    def masks(self, item: Item) -> np.ndarray:
        """(K, H, W) bool."""
        ...

    def image(self, item: Item) -> np.ndarray:
        """(H, W) or (3, H, W) float in [0, 1]."""
        ...


class ItemViews:
    """Makes views and keeps the latest. Threads may share one.

    Args:
        candidates: masks and images, as the network sees them.
        aspect: width over height of an item's image as it was taken, in millimetres; slices are squashed to squares.
    """

    def __init__(self, candidates: Candidates, aspect: Callable[[Item], float] = lambda item: 1.0) -> None:
        self._candidates = candidates
        self._aspect = aspect
        self._kept_outlines = lru_cache(_KEPT)(self._outlines)
        self._kept_pixels = lru_cache(_KEPT)(self._pixels)

    def shape(self, item: Item) -> tuple[int, int]:
        """(height, width) of the slice in pixels."""
        return self._kept_pixels(item)[1][:2]

    def content(self, item: Item) -> dict[str, Any]:
        """Everything but the pixels."""
        lines = self._kept_outlines(item)
        height, width, channels = self._kept_pixels(item)[1]
        return {
            "id": item.id,
            "case": item.case,
            "slice": item.slice_index,
            "structure": item.structure,
            "height": height,
            "width": width,
            "channels": channels,
            "aspect": self._aspect(item),
            "subpixels": SUBPIXELS,
            "candidates": lines,
        }

    def pixels(self, item: Item) -> bytes:
        """(H, W, C) uint16, little endian, C = 1 or 3: a browser has no 16-bit image format to set a window on."""
        return self._kept_pixels(item)[0]

    def _outlines(self, item: Item) -> list[list[list[int]]]:
        return [outlines(mask) for mask in self._candidates.masks(item)]

    def _pixels(self, item: Item) -> tuple[bytes, tuple[int, int, int]]:
        image = self._candidates.image(item)
        image = np.moveaxis(image, 0, -1) if image.ndim == 3 else image[..., None]
        scaled = np.rint(np.clip(image, 0, 1) * _HIGHEST).astype("<u2")
        return np.ascontiguousarray(scaled).tobytes(), scaled.shape


def outlines(mask: np.ndarray) -> list[list[int]]:
    """Closed polygons around a mask by marching squares at 0.5: edges run midway between inside and outside.

    Args:
        mask: (H, W) bool.

    Returns:
        For each closed line ``[x, y, x, y, …]`` in halves of a pixel, where pixel (row, column) covers the square from
        (column, row) to (column + 1, row + 1). Corners only; the last joins the first. Empty for an empty mask.
    """
    padded = np.pad(np.asarray(mask, dtype=np.float32), 1)  # so that lines close at the image's border
    return [_corners(line) for line in find_contours(padded, 0.5)]


def _corners(line: np.ndarray) -> list[int]:
    """(P, 2) rows and columns of the padded mask, the last equal to the first -> flat x, y of the corners."""
    # Index i of the padded mask is pixel i - 1, whose centre lies at i - 0.5.
    points = np.rint(SUBPIXELS * line[:-1, ::-1] - 1).astype(int)
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return points[turns].ravel().tolist()


def aspect_ratios(store: SliceStore) -> Callable[[Item], float]:
    """A function that gives the width over the height, in millimetres, of an item's slice.

    Args:
        store: the slices that the candidates were made of. A case that is no longer in it is shown as a square.
    """

    def aspect(item: Item) -> float:
        try:
            properties = store.properties(item.case)
        except DatasetError:
            return 1.0
        return aspect_ratio(SliceGeometry.from_dict(properties["geometry"]), tuple(properties["spacing"]))

    return aspect


def aspect_ratio(geometry: SliceGeometry, spacing: tuple[float, float, float]) -> float:
    """Width over height of a native slice; ``spacing`` of (Z, Y, X) in millimetres."""
    rows, columns = geometry.slice_shape
    row_spacing, column_spacing = (s for axis, s in enumerate(spacing) if axis != geometry.axis)
    return (columns * column_spacing) / (rows * row_spacing)
