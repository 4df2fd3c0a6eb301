"""Outlines of masks as polygons, which the browser draws as lines at the resolution of the screen."""

from __future__ import annotations

import numpy as np
from skimage.measure import find_contours

SUBPIXELS = 2  # coordinates are halves of a pixel: marching squares on a mask has no others


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
