from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from figure_runs import PICTURE, PICTURES, SIZE, ball, pictures, prompt, run, volumes
from matplotlib.colors import to_hex

from samdpo.dataset.images import write_label
from samdpo.drawing import TRUTH_COLOUR, new_figure
from samdpo.files import read_json, write_json
from samdpo.lab.benchmark.cells import Cell
from samdpo.lab.benchmark.figure4 import Example, choose_cases, draw_figure4, figure4
from samdpo.lab.benchmark.figure_cases import choose_runs, drawn_prompts, load_case, percentile_of
from samdpo.lab.benchmark.figure_panels import MASK_COLOUR, Block, draw_contours, lay_out
from samdpo.prompting.prompt_store import PromptStore


@pytest.fixture
def drawn(tmp_path):
    """Cell, records and the runs chosen of them."""
    bench, records = pictures(tmp_path / "bench")
    return bench.cell, records, choose_runs(records, [bench.cell], PICTURES)


def test_cases_are_those_at_the_percentiles_of_the_reference(drawn):
    chosen = {percentile: case.case for percentile, case in choose_cases(drawn[2]).items()}
    assert chosen == {10: "case_01", 50: "case_05", 90: "case_09"}


def test_a_case_at_several_percentiles_is_drawn_once(drawn):
    _, _, chosen = drawn
    one = replace(chosen.reference_run, per_case={"case_03": 0.5})
    cases = choose_cases(replace(chosen, runs=(chosen.runs[0], one)))
    assert [case.case for case in cases.values()] == ["case_03"]


@pytest.mark.parametrize(("percentile", "expected"), [(0, "a"), (10, "a"), (50, "b"), (90, "d"), (100, "d")])
def test_a_percentile_is_the_nearest_case_and_of_two_the_lower(percentile, expected):
    assert percentile_of({"d": 0.9, "b": 0.2, "a": 0.1, "c": 0.3, "e": float("nan")}, percentile) == expected


def test_there_is_no_percentile_of_nothing():
    with pytest.raises(ValueError, match="no number"):
        percentile_of({"a": float("nan")}, 50)


def test_the_least_share_the_usual_plan_and_the_seed_of_median_dice_are_drawn():
    root = Path("bench")
    cells = [Cell(root, share, seed) for share in (0.1, 0.5) for seed in (1, 2, 3)]
    records = [run("align", dice, seed=seed, labelled=share) for share in (0.1, 0.5)
               for seed, dice in ((1, 0.9), (2, 0.7), (3, 0.8))]
    records += [run("unet", 0.1, seed=3), run("unet", 0.2, seed=1), replace(records[0], plans_name="a", seed=3)]
    chosen = choose_runs(records, cells, PICTURES)
    assert [one.method for one in chosen.runs] == ["unet", "align"] and chosen.cell == cells[2]
    assert {(one.seed, one.labelled, one.plans_name) for one in chosen.runs} == {(3, 0.1, "samdpoPlans")}
    assert choose_runs(records, [], PICTURES) is None and choose_runs(records, cells, "Dataset001_Other") is None


def test_without_align_the_first_method_chooses():
    chosen = choose_runs([run("finetune", 0.5), run("unet", 0.6)], [Cell(Path("bench"), 0.1, 1)], PICTURES)
    assert chosen.reference == "unet"


def test_image_truth_masks_and_prompts_lie_on_one_grid_of_square_pixels(drawn):
    case = load_case(drawn[2], "case_10")
    assert case.image.shape[:2] == case.truth.shape == case.masks["align"].shape == case.prompts.coarse.shape
    assert case.truth.shape[1] / case.truth.shape[0] == 60 / 40
    assert (case.masks["finetune"] != case.truth).any()
    inside = case.image[..., 0] > 0.5
    assert (inside != (case.truth == 1)).mean() < 0.03  # the picture of a phantom is its truth


def test_prompts_are_stretched_with_the_image():
    drawn = drawn_prompts([prompt()], (2 * SIZE, 3 * SIZE), SIZE)
    rows, columns = np.nonzero(drawn.coarse)
    left, top, right, bottom = drawn.boxes[0]
    assert (left, top) == (columns.min() - 0.5, rows.min() - 0.5)
    assert (right, bottom) == (columns.max() + 0.5, rows.max() + 0.5)
    np.testing.assert_allclose(drawn.points, [[(10 + 0.5) * 3 - 0.5, (16 + 0.5) * 2 - 0.5]])
    assert 0 < drawn.saliency.min() < 0.5 < drawn.saliency.max() < 1


def test_prompts_of_the_model_itself_come_before_those_of_the_plan(drawn):
    _, _, chosen = drawn
    own = replace(prompt(), points=np.zeros((3, 2), np.float32))
    PromptStore(chosen.reference_run.folder / "prompts", "key").put("case_05", [[own]])
    assert len(load_case(chosen, "case_05").prompts.points) == 3
    assert len(load_case(chosen, "case_04").prompts.points) == 1


def test_a_panel_names_its_method_and_its_dice_and_the_rule_is_said(drawn):
    chosen = drawn[2]
    figure = figure4([Example(chosen, choose_cases(chosen))])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["image", "saliency from text", "coarse mask,\nbox, points"]
    assert titles[4] == f"Ours\nDice {chosen.reference_run.per_case['case_01']:.3f}"
    assert len(titles) == 3 * 5
    texts = [text.get_text() for text in figure.texts]
    assert "Tiny Xray: 10% labelled (1 case), seed 1" in texts
    assert any("10th, 50th and 90th percentile of the Dice of “Ours”" in text for text in texts)
    renderer = figure.canvas.get_renderer()
    assert all(text.get_window_extent(renderer).x1 <= figure.bbox.x1 for text in figure.texts)


def test_the_truth_and_the_method_are_outlined_in_their_colours_where_they_lie():
    axes = new_figure(2, 2).add_axes((0, 0, 1, 1))
    truth, mask = ball((1, 40, 40), 10)[0], ball((1, 40, 40), 5)[0]
    draw_contours(axes, truth, mask)
    outer, inner = axes.collections
    for contour, colour, radius in ((outer, TRUTH_COLOUR, 10), (inner, MASK_COLOUR, 5)):
        assert to_hex(contour.get_edgecolor()[0]).upper() == colour.upper()
        x, y = contour.get_paths()[0].vertices.T
        assert abs(np.hypot(x - 19.5, y - 19.5) - radius).max() < 1


def test_more_panels_than_a_page_is_wide_go_into_strips_of_about_one_length():
    page = lay_out([Block("h", ["a", "b"], [1.0, 0.5], panels=17)], legend=0.3, notes=["n"])
    rows = page.axes[0]
    assert [len(row) for row in rows] == [17, 17]
    lefts = sorted({round(axes.get_position().x0, 6) for axes in rows[0]})
    assert len(lefts) == 9
    boxes = [axes.get_position() for row in rows for axes in row]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    assert all(box.x0 >= 0 and box.x1 <= 1 and box.y0 >= 0 and box.y1 <= 1 for box in boxes)


def test_one_file_is_written(drawn, tmp_path):
    cell, records, _ = drawn
    assert draw_figure4(records, [cell], tmp_path) == [tmp_path / "figure4.png"]
    assert (tmp_path / "figure4.png").read_bytes()[:4] == b"\x89PNG"


def test_without_prompts_their_columns_are_left_out(tmp_path):
    bench, records = pictures(tmp_path, methods=("unet",), prompts=False)
    chosen = choose_runs(records, [bench.cell], PICTURES)
    figure = figure4([Example(chosen, choose_cases(chosen))])
    assert len(figure.axes) == 3 * 2
    assert not any("prompts" in text.get_text() for text in figure.texts)


def test_pixels_of_which_nothing_is_known_are_no_structure(drawn):
    _, _, chosen = drawn
    file = chosen.preprocessed / "dataset.json"
    write_json(file, {**read_json(file), "labels": {"background": 0, "lung": 1, "ignore": 2}})
    unknown = np.ones((1, 40, 60), np.uint8)
    unknown[:, :20] = 2
    write_label(unknown, chosen.preprocessed / "gt_segmentations" / "case_05.png", PICTURE)
    truth = load_case(chosen, "case_05").truth
    half = len(truth) // 2
    assert not truth[:half].any() and truth[half:].all()


def test_a_missing_mask_is_said_and_the_rest_is_drawn(drawn, caplog):
    _, records, chosen = drawn
    (records[0].folder / "validation" / "case_05.png").unlink()
    with caplog.at_level(logging.WARNING):
        figure = figure4([Example(chosen, choose_cases(chosen))])
    assert "case_05.png is missing" in caplog.text
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert said == ["mask is missing"]


def test_what_cannot_be_read_is_left_out_with_a_warning(drawn, tmp_path, caplog):
    cell, records, _ = drawn
    for file in (cell.preprocessed / PICTURES / "gt_segmentations").iterdir():
        file.unlink()
    with caplog.at_level(logging.WARNING):
        assert draw_figure4(records, [cell], tmp_path) == []
    assert f"without {PICTURES}" in caplog.text


def test_volumes_and_runs_that_are_not_done_are_not_drawn(tmp_path):
    bench, records = volumes(tmp_path / "bench")
    assert draw_figure4(records, [bench.cell], tmp_path) == []
    assert draw_figure4([run("align", 0.5, status="missing", metrics={})], [bench.cell], tmp_path) == []
    assert draw_figure4([], [], tmp_path) == []
