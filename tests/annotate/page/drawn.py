"""Drawn candidates of phantom images, stored as those of a model: what the page's tests judge."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from samdpo.preferences.records import Box, CandidateSet, Item, Point
from samdpo.preferences.stored_candidates import CandidateWriter, ItemCandidates, StoredCandidates

DATASET = "Dataset901_PhantomXray"


class EllipseSegmenter:
    """Makes an ellipse of a box, and a disc of a point; ``prepared`` are the items announced."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.prepared: list[int] = []

    def prepare(self, items: Sequence[Item]) -> None:
        self.prepared += [item.id for item in items]

    def segment(self, item: Item, box: Box | None, point: Point | None) -> np.ndarray:
        rows, columns = np.mgrid[: self.size, : self.size] + 0.5
        x0, y0, x1, y1 = box or (point[0] - 6, point[1] - 6, point[0] + 7, point[1] + 7)
        return ((columns - (x0 + x1) / 2) / (x1 - x0)) ** 2 + ((rows - (y0 + y1) / 2) / (y1 - y0)) ** 2 < 0.25


def ellipses(generator: np.random.Generator, count: int, size: int) -> np.ndarray:
    """(count, size, size) bool: one ellipse drawn ``count`` times, each a little different."""
    rows, columns = np.mgrid[:size, :size] / size
    centre, axes = generator.uniform(0.4, 0.6, 2), generator.uniform(0.15, 0.25, 2)
    masks = []
    for _ in range(count):
        (y, x), (a, b) = centre + generator.normal(0, 0.03, 2), axes * generator.uniform(0.8, 1.2, 2)
        masks.append(((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1)
    return np.stack(masks)


def store(
    folder: Path,
    cases: Sequence[tuple[str, np.ndarray, np.ndarray]],
    structure: str = "lung",
    dataset: str = DATASET,
) -> StoredCandidates:
    """Write a candidate set of one item a case; the cases given first are judged first.

    Args:
        folder: of the set.
        cases: identifier, image (H, W) in [0, 1], masks (K, H, W) bool.
        structure: whose candidates they are.
        dataset: name.
    """
    writer = CandidateWriter(folder)
    for place, (case, image, masks) in enumerate(cases):
        boxes = np.zeros((1, 4), np.float32)
        item = ItemCandidates(0, structure, masks, boxes, disagreement=1 - (place + 1) / (len(cases) + 1))
        writer.put(case, case, {0: image}, [item])
    made = CandidateSet("drawn", dataset, "0", "align", "samdpoPlans", "model", "plan",
                        datetime.now(timezone.utc), str(folder))
    writer.finish(made, {})
    return StoredCandidates.open(folder)


def draw(folder: Path, n_items: int, count: int = 4, size: int = 48, seed: int = 0) -> StoredCandidates:
    """A candidate set of drawn ellipses on noise."""
    generator = np.random.default_rng(seed)
    cases = []
    for number in range(n_items):
        masks = ellipses(generator, count, size)
        image = np.clip(0.3 + 0.4 * masks[0] + generator.normal(0, 0.05, masks[0].shape), 0, 1).astype(np.float32)
        cases.append((f"case_{number:04d}", image, masks))
    return store(folder, cases)
