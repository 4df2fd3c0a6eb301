"""Items as the browser gets them: outlines as JSON, pixels as bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from samdpo.annotate.page.display_order import display_order, to_display
from samdpo.annotate.page.outlines import SUBPIXELS, outlines
from samdpo.preferences.records import Item

_KEPT = 64  # items whose outlines and pixels stay in memory: those being looked at or loaded ahead
_HIGHEST = 2**16 - 1


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

    def order(self, item: Item, annotator: str) -> list[int]:
        """Stored index of the candidate at each place on this person's screen."""
        return display_order(item.candidate_set, item.id, annotator, item.candidates)

    def content(self, item: Item, annotator: str) -> dict[str, Any]:
        """Everything but the pixels, candidates in this person's order."""
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
            "candidates": to_display(lines, self.order(item, annotator)),
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
