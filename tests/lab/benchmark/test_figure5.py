from __future__ import annotations

import logging

import numpy as np
import pytest
from figure_runs import LPS, VOLUMES, ball, pictures, run, volumes

from samdpo.lab.benchmark.figure5 import (
    body_axes,
    choose_structures,
    colour_limit,
    coloured,
    draw_figure5,
    figure5,
    load_scene,
)
from samdpo.lab.benchmark.figure_cases import choose_runs
from samdpo.lab.benchmark.figure_surface import Surface, crop, render, signed_distance

SPACING = (2.0, 1.0, 1.0)


@pytest.fixture(scope="module", autouse=True)
def _small_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("samdpo.lab.benchmark.figure5._PIXELS", 60)
        yield


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    bench, records = volumes(tmp_path_factory.mktemp("bench"))
    return load_scene(choose_runs(records, [bench.cell], VOLUMES))


def test_the_distance_to_a_surface_is_in_mm_and_positive_inside():
    distance = signed_distance(ball((9, 21, 21), 1.2), SPACING)
    assert distance[4, 10, 10] > 0 > distance[4, 10, 14]
    np.testing.assert_allclose(distance[8, 10, 10], -2.0 * 3)  # 3 slices of 2 mm to the last that shows it
    assert np.isneginf(signed_distance(np.zeros((2, 3, 4), bool), SPACING)).all()


def test_a_mask_that_is_the_truth_lies_at_distance_nought():
    mask = ball((20, 40, 40), 8)
    seen = render(mask, mask, SPACING, pixels=80)
    assert seen.seen.any() and np.nanmax(np.abs(seen.distance)) < 0.3
    assert np.nanmin(seen.shade) >= 0 and np.nanmax(seen.shade) <= 1


@pytest.mark.parametrize(("radius", "expected"), [(11, 3.0), (6, -2.0)])
def test_the_distance_says_how_far_outside_or_inside_the_truth_a_surface_lies(radius, expected):
    shape = (40, 40, 40)
    seen = render(ball(shape, radius), ball(shape, 8), (1.0, 1.0, 1.0), pixels=80)
    assert np.nanmedian(seen.distance) == pytest.approx(expected, abs=0.4)


def test_the_silhouette_of_a_ball_has_its_size():
    seen = render(ball((40, 40, 40), 10), ball((40, 40, 40), 10), (1.0, 1.0, 1.0), pixels=120)
    assert np.sqrt(seen.seen.sum() * seen.pixel**2 / np.pi) == pytest.approx(10, abs=0.6)


def test_the_head_is_above_and_the_patients_left_on_the_right():
    shape = (40, 40, 40)
    for centre, axis, side in (((30, 20, 20), 0, -1), ((20, 20, 30), 1, 1)):
        seen = render(ball(shape, 5, centre), ball(shape, 5), (1.0, 1.0, 1.0), pixels=80).seen
        off = np.argwhere(seen).mean(0)[axis] - (seen.shape[axis] - 1) / 2
        assert side * off > 5


def test_the_front_hides_the_back():
    front, back = (ball((40, 40, 40), 7, (20, y, 20)) for y in (9, 31))

    def pixels_of(truth: np.ndarray) -> int:
        return int((np.abs(render(front | back, truth, (1.0, 1.0, 1.0), pixels=80).distance) < 1).sum())

    assert pixels_of(front) > 1.2 * pixels_of(back) > 0


def test_an_empty_mask_and_one_thinner_than_the_smoothing_give_a_picture_of_nothing():
    truth = ball((20, 20, 20), 5)
    seen = render(np.zeros_like(truth), truth, SPACING, pixels=40)
    assert not seen.seen.any()
    speck = np.zeros_like(truth)
    speck[10, 10, 10] = True
    assert render(speck, truth, SPACING, pixels=40).shade.shape == seen.shade.shape
    assert (coloured(seen, 2.0) == 1).all()


def test_pictures_of_a_row_are_cut_alike():
    shape = (30, 30, 30)
    large, small = (render(ball(shape, r), ball(shape, 6), (1.0,) * 3, pixels=90) for r in (10, 4))
    cut = crop([large, small])
    assert cut[0].shade.shape == cut[1].shade.shape < large.shade.shape
    assert cut[0].seen.sum() == large.seen.sum() and cut[1].seen.sum() == small.seen.sum()


def test_outside_is_red_inside_blue_and_the_truth_neither():
    distance = np.array([[5.0, -5.0, 0.0, np.nan]])
    picture = coloured(Surface(np.where(np.isfinite(distance), 1.0, np.nan), distance, 1.0), 4.0)[0]
    assert picture[0, 0] > picture[0, 2] + 0.2 and picture[1, 2] > picture[1, 0] + 0.2
    assert np.ptp(picture[2]) < 0.05 and (picture[3] == 1).all()


def test_colours_reach_to_nearly_the_greatest_distance_and_never_show_rounding():
    assert colour_limit([Surface(np.ones((1, 100)), np.linspace(-6.4, 6.4, 100)[None], 1.0)]) == 7
    assert colour_limit([Surface(np.ones((1, 2)), np.array([[0.1, np.nan]]), 1.0)]) == colour_limit([]) == 2


@pytest.mark.parametrize("letters", ["LPS", "RAI", "LAS", "SPL", "AIR", "PLI"])
def test_a_volume_is_turned_to_the_body_whatever_way_its_axes_run(letters):
    body = np.arange(24).reshape(2, 3, 4)  # of (S, P, L)
    world = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    direction = np.zeros((3, 3))
    for axis, letter in enumerate(letters):  # of x, y, z
        direction[world[letter][0], axis] = world[letter][1]
    order = [2 - world[letter][0] for letter in letters[::-1]]  # body axis of each array axis
    stored = np.transpose(body, order)
    stored = np.flip(stored, [axis for axis, letter in enumerate(letters[::-1]) if world[letter][1] < 0])
    found, flips = body_axes({"sitk_stuff": {"direction": tuple(direction.ravel())}})
    np.testing.assert_array_equal(np.flip(np.transpose(stored, found), flips), body)


def test_a_volume_that_says_nothing_of_the_body_is_left_as_it_lies():
    assert body_axes({}) == ([0, 1, 2], []) and body_axes({"sitk_stuff": {"direction": LPS}}) == ([0, 1, 2], [])


def test_liver_and_spleen_are_drawn_where_both_are_there_else_the_two_largest():
    truth = np.repeat([1, 2, 3, 0], [5, 9, 7, 50]).reshape(1, 1, -1)
    assert choose_structures(truth, {"spleen": 1, "aorta": 2, "liver": 3}) == {"liver": 3, "spleen": 1}
    assert choose_structures(truth, {"spleen": 1, "aorta": 2, "colon": 3}) == {"aorta": 2, "colon": 3}
    assert choose_structures(truth, {"spleen": 1, "liver": 4}) == {"spleen": 1}
    assert choose_structures(truth, {"liver": 4}) == {}


def test_the_case_of_median_dice_is_drawn_with_the_dice_of_each_structure(scene):
    assert scene.case == "case_1" and [one.name for one in scene.structures] == ["liver", "spleen"] and scene.from_front
    figure = figure5([scene])
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    dice = [one.dice["align"] for one in scene.structures]
    assert titles == ["truth", f"Ours\nDice {dice[0]:.3f}", "truth", f"Ours\nDice {dice[1]:.3f}"]
    assert 0.5 < dice[1] < dice[0] < 1  # the same 1.5 pixels more are more of a small ball
    assert any("median Dice" in text.get_text() for text in figure.texts)


def test_the_scale_bar_is_as_long_as_it_says(scene):
    bars = [line for axes in figure5([scene]).axes for line in axes.lines if line.get_gid() == "scale"]
    assert len(bars) == 2
    pixels = np.ptp(bars[0].get_xdata())
    assert pixels * scene.structures[0].truth.pixel == pytest.approx(10)  # 5 cm would be longer than the liver is


def test_a_thin_volume_is_drawn_as_slices(tmp_path):
    bench, records = volumes(tmp_path / "bench", slices=6, structures=("heart", "aorta"))
    scene = load_scene(choose_runs(records, [bench.cell], VOLUMES))
    assert [one.name for one in scene.structures] == ["heart", "aorta"]
    for one in scene.structures:
        assert one.image.shape[:2] == one.truth.shape == one.masks["align"].shape
        assert one.masks["align"].sum() > one.truth.sum() > 0
    assert draw_figure5(records, [bench.cell], tmp_path) == [tmp_path / "figure5.png"]


def test_one_file_is_written_and_a_missing_mask_is_said(tmp_path, caplog):
    bench, records = volumes(tmp_path / "bench")
    (records[0].folder / "validation" / "case_1.nii.gz").unlink()
    with caplog.at_level(logging.WARNING):
        assert draw_figure5(records, [bench.cell], tmp_path) == [tmp_path / "figure5.png"]
    assert "case_1.nii.gz is missing" in caplog.text


def test_pictures_missing_files_and_runs_that_are_not_done_are_not_drawn(tmp_path, caplog):
    bench, records = pictures(tmp_path / "bench")
    assert draw_figure5(records, [bench.cell], tmp_path) == []
    assert draw_figure5([run("align", 0.5, dataset=VOLUMES, per_case={"case_0": 0.5})], [bench.cell], tmp_path) == []
    assert f"without {VOLUMES}" in caplog.text
    assert draw_figure5([], [], tmp_path) == []
