from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from figure_runs import run

from samdpo.lab.benchmark.figure3 import draw_figure3, figure3
from samdpo.lab.benchmark.figure_cases import dice_by_seed, main_runs
from samdpo.lab.benchmark.figure_panels import _STYLES, competes, in_order, marks_explained, short_name, style_of
from samdpo.lab.benchmark.methods import METHODS

LINES = {"finetune": {0.1: [0.5, 0.7], 0.5: [0.8]}, "align": {0.1: [0.7], 0.5: [0.8, 0.9]}}
POINTS = {
    "unet": {0.1: [0.5, 0.6, 0.7]}, "align": {0.1: [0.7, 0.8]}, "prompt_only": {0.1: [0.9]},
    "sam_truth_box": {0.1: [0.95]},
}


def artists(axes) -> dict:
    return {one.get_gid(): one for one in axes.get_children() if one.get_gid()}


def test_lines_pass_through_the_means_and_shades_reach_from_the_least_to_the_greatest_seed():
    found = artists(figure3({"Lung": LINES}).axes[0])
    np.testing.assert_allclose(found["mean finetune"].get_xydata(), [[0.1, 0.6], [0.5, 0.8]])
    np.testing.assert_allclose(found["mean align"].get_xydata(), [[0.1, 0.7], [0.5, 0.85]])
    corners = found["seeds finetune"].get_paths()[0].vertices
    at_ten = corners[np.isclose(corners[:, 0], 0.1), 1]
    assert (at_ten.min(), at_ten.max()) == (0.5, 0.7)


def test_it_is_said_over_how_many_seeds_a_mean_was_taken():
    said = [text.get_text() for text in figure3({"Lung": LINES}).texts]
    assert said == ["Line: mean over 1 to 2 seeds. Shaded: least to greatest seed."]


def test_a_method_of_one_share_among_others_is_a_point_with_its_bar():
    found = artists(figure3({"Lung": {**LINES, "unet": {0.5: [0.3, 0.4]}}}).axes[0])
    np.testing.assert_allclose(found["mean unet"].get_xydata(), [[0.5, 0.35]])
    np.testing.assert_allclose(found["bar unet"].get_xydata(), [[0.5, 0.3], [0.5, 0.4]])


def test_shares_are_ticks_in_percent():
    axes = figure3({"Lung": LINES}).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["10%", "50%"]


def test_one_share_gives_a_row_a_method_best_on_top_and_those_with_more_apart_below():
    axes = figure3({"Lung": POINTS}).axes[0]
    found = artists(axes)
    rows = {m: float(found[f"mean {m}"].get_ydata()[0]) for m in POINTS}
    assert axes.yaxis_inverted() and sorted(rows, key=rows.get) == ["align", "unet", "sam_truth_box", "prompt_only"]
    assert rows["unet"] < found["more"].get_ydata()[0] < rows["sam_truth_box"]
    np.testing.assert_allclose(found["mean unet"].get_xdata(), [0.6])
    np.testing.assert_allclose(found["bar unet"].get_xdata(), [0.5, 0.7])
    np.testing.assert_allclose(found["seeds unet"].get_xdata(), [0.5, 0.6, 0.7])
    assert found["number unet"].get_text() == "0.600 (3)" and "seeds prompt_only" not in found


def test_prompts_of_the_truth_are_dashed_and_named_so_in_the_legend():
    figure = figure3({"Lung": {**LINES, "sam": LINES["align"], "sam_truth_box": LINES["align"]}})
    found = artists(figure.axes[0])
    assert found["mean sam_truth_box"].is_dashed() and not found["mean sam"].is_dashed()
    assert found["mean sam_truth_box"].get_color() == found["mean sam"].get_color()
    assert any("truth's box" in text.get_text() for text in figure.legends[0].get_texts())


def test_a_method_has_one_colour_in_all_panels_and_no_legend_covers_one():
    figure = figure3({"Lung": LINES, "Breast": POINTS, "Abdomen": {"align": {0.2: [0.5]}}})
    assert len({artists(axes)["mean align"].get_color() for axes in figure.axes}) == 1
    renderer = figure.canvas.get_renderer()
    legend = figure.legends[0].get_window_extent(renderer)
    for axes in figure.axes:
        assert not legend.overlaps(axes.get_tightbbox(renderer)) and axes.get_legend() is None


@pytest.mark.parametrize("panels", [("Lung",), ("Breast",), ("Lung", "Breast"), ("Lung", "Breast", "Abdomen")])
def test_nothing_is_cut_off_with_every_method(panels):
    shares = {"Lung": {0.1: [0.5, 0.6], 0.2: [0.6]}, "Breast": {0.1: [0.5]}, "Abdomen": {0.2: [0.7]}}
    figure = figure3({panel: dict.fromkeys(METHODS, shares[panel]) for panel in panels})
    renderer, inside = figure.canvas.get_renderer(), figure.bbox
    for axes in figure.axes:
        box = axes.get_tightbbox(renderer)
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= inside.x1 and box.y1 <= inside.y1
    for one in (*figure.legends, *figure.texts):
        box = one.get_window_extent(renderer)
        assert box.x0 >= 0 and box.x1 <= inside.x1


def test_both_files_are_written(tmp_path):
    written = draw_figure3([run("align", 0.8), run("align", 0.9, seed=2)], tmp_path)
    assert [file.name for file in written] == ["figure3.png", "figure3.pdf"]
    assert written[0].read_bytes()[:4] == b"\x89PNG" and written[1].read_bytes()[:4] == b"%PDF"


@pytest.mark.parametrize("records", [
    [], [run("align", 0.5, status="failed", metrics={})], [run("align", float("nan"))],
    [run("align", 0.5, unlabelled=0.2)], [run("align_noise_0.1", 0.5)],
])
def test_nothing_is_drawn_where_nothing_of_the_main_comparison_is_done(tmp_path, records):
    assert draw_figure3(records, tmp_path) == [] and not list(tmp_path.iterdir())


def test_folds_of_a_seed_are_averaged_before_seeds_are_compared():
    records = [run("align", 0.4), run("align", 0.6), run("align", 0.9, seed=2)]
    assert dice_by_seed(main_runs(records)) == {"align": {0.1: [0.5, 0.9]}}


def test_plans_are_compared_in_panels_of_their_own(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("samdpo.lab.benchmark.figure3.figure3", lambda scores: drawn.update(scores) or figure3(scores))
    draw_figure3([run("align", 0.5), replace(run("align", 0.7), plans_name="other")], tmp_path)
    assert drawn == {"Tiny Xray, other": {"align": {0.1: [0.7]}}, "Tiny Xray, samdpoPlans": {"align": {0.1: [0.5]}}}


def test_every_method_has_colour_and_marker_of_its_own_and_is_told_apart_by_its_name():
    trained = [name for name, method in METHODS.items() if method.companion_of is None]
    assert set(trained) == set(_STYLES)
    assert len({style_of(name).colour for name in trained}) == len(trained)
    assert len({style_of(name).marker for name in trained}) == len(trained)
    assert len({short_name(name) for name in trained}) == len(trained)
    assert {marks_explained([name]) == "" for name in METHODS if competes(name)} == {True}
    assert in_order(["unheard_of", "align", "unet"]) == ["unet", "align", "unheard_of"]
