"""Outlines, proportions, upcoming items: what the page computes before anything is sent."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import datetime, timezone

import numpy as np
import pytest
from drawn import ellipses
from skimage.measure import grid_points_in_poly

from samdpo.annotate.database.database import Progress
from samdpo.annotate.page.item_views import SUBPIXELS, aspect_ratio, outlines
from samdpo.annotate.page.ranking_page import AHEAD, ProgressBoard, Upcoming
from samdpo.annotate.page.start import of_first_slices
from samdpo.preferences.records import Judgement
from samdpo.preprocessing.slicing import SliceGeometry


def filled(polygons: list[list[int]], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centres are inside an odd number of the polygons."""
    inside = np.zeros(shape, bool)
    for flat in polygons:
        points = np.array(flat).reshape(-1, 2)[:, ::-1] / SUBPIXELS - 0.5  # rows, columns of pixel centres
        inside ^= grid_points_in_poly(shape, points)
    return inside


@pytest.mark.parametrize("seed", range(5))
def test_an_outline_encloses_exactly_the_pixels_of_its_mask(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = ellipses(generator, 1, 40)[0]
    mask[18:22, 18:22] = False  # a hole
    mask[2:5, 3:9] = True  # a second piece
    assert (filled(outlines(mask), mask.shape) == mask).all()


def test_a_mask_that_fills_the_image_is_outlined_along_its_border() -> None:
    points = np.array(outlines(np.ones((6, 8), bool))[0]).reshape(-1, 2) / SUBPIXELS
    assert points.min(0).tolist() == [0, 0]
    assert points.max(0).tolist() == [8, 6]


def test_an_outline_has_corners_only() -> None:
    mask = np.zeros((30, 30), bool)
    mask[5:25, 5:25] = True
    assert len(outlines(mask)[0]) == 2 * 8  # a square whose corners are cut


def test_an_empty_mask_has_no_outline() -> None:
    assert outlines(np.zeros((8, 8), bool)) == []


@pytest.mark.parametrize(
    ("geometry", "spacing", "expected"),
    [
        (SliceGeometry(0, (1, 200, 100)), (1.0, 1.0, 1.0), 0.5),
        (SliceGeometry(0, (40, 512, 512)), (5.0, 0.7, 0.7), 1.0),
        (SliceGeometry(1, (40, 512, 512)), (5.0, 0.5, 0.5), 256 / 200),
    ],
)
def test_a_slice_has_the_proportions_of_the_body(geometry, spacing, expected) -> None:
    assert aspect_ratio(geometry, spacing) == pytest.approx(expected)


def test_items_to_load_ahead_follow_in_the_order_of_work_and_were_seen_by_nobody(stored) -> None:
    numbers = [item.id for item in stored.items]
    upcoming = Upcoming(stored.items, seen=numbers[2:4])
    assert upcoming.after(numbers[0], "anna") == [numbers[1], *numbers[4:4 + AHEAD - 1]]
    assert upcoming.after(numbers[1], "anna") == numbers[4:4 + AHEAD]
    assert upcoming.after(numbers[-1], "anna") == []


def test_with_many_people_at_work_the_next_item_lies_further_ahead(stored) -> None:
    people, upcoming = [f"person {number}" for number in range(4)], Upcoming(stored.items, seen=())
    numbers = [item.id for item in stored.items]
    for turn, number in enumerate(numbers[:8]):  # each in turn gets the next one
        guessed = upcoming.after(number, people[turn % 4])
        assert turn < 4 or numbers[turn + 4] in guessed


def test_progress_is_read_once_in_some_seconds_and_counted_on_in_between() -> None:
    read, clock = [], iter([0.0, 1.0, 2.0, 10.0])
    board = ProgressBoard(lambda name: read.append(name) or Progress(5, 7, 3.0, 1), clock=lambda: next(clock))
    now = datetime.now(timezone.utc)
    judgement = Judgement(1, "anna", "best", None, None, 0, "ranked", 2.0, str(uuid.uuid4()), now)
    board.count(judgement)  # nobody has asked yet; the database knows
    assert board.of("anna") == Progress(5, 7, 3.0, 1)
    board.count(judgement)
    assert board.of("anna") == Progress(6, 6, 3.0, 1)
    board.count(dataclasses.replace(judgement, best=None, verdict="skipped"))
    assert board.of("anna") == Progress(6, 5, 3.0, 2)
    assert board.of("anna") == Progress(5, 7, 3.0, 1)
    assert read == ["anna", "anna"]


def test_a_limit_counts_slices_and_keeps_all_structures_of_each(stored) -> None:
    assert of_first_slices(stored.items, 3) == stored.items[:3]
    assert of_first_slices(stored.items, None) == stored.items
    assert of_first_slices([*stored.items, stored.items[0]], 1) == [stored.items[0]] * 2
