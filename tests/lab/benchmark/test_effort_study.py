"""Dice against an annotator's minutes: which points are run, what is drawn, what the table says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from fake_runs import DATASET, fake_run, plan_cell

from samdpo.lab.benchmark.cells import Cell
from samdpo.lab.benchmark.effort import Asked, asked_about_places, is_covered
from samdpo.lab.benchmark.effort_study import COLUMNS, draw_effort, effort_table, figure_effort, studies_of
from samdpo.lab.benchmark.execute import failed
from samdpo.lab.benchmark.methods import ABLATIONS, ASKED, EFFORT, EFFORT_METHODS, MINUTES_ASKED, Method, chosen_methods
from samdpo.lab.benchmark.records import Record, load_records, save_records
from samdpo.lab.benchmark.report import collect, write_report
from samdpo.lab.benchmark.runner import overview
from samdpo.lab.benchmark.settings import Settings
from samdpo.lab.benchmark.steps import all_steps

POINTS = {ASKED[point.method.stage]: point.method for point in EFFORT}
ABLATION = {a.method.name: a.method for a in ABLATIONS}
ITEMS, SECONDS = 57, {"outlines": 79.0, "boxes": 9.0, "orders": 24.0, "mixture": 6.0}
WORTH = {"outlines": 0.0040, "boxes": 0.0035, "orders": 0.0020, "mixture": 0.0034}  # of Dice, an answer
SEEDS = (1, 2, 3)
TWO = {DATASET: 2}


def answers_in(asks: str, minutes: float) -> Asked:
    """What the virtual annotator says in so many minutes, were every answer equally dear."""
    count = min(ITEMS, int(60 * minutes // SECONDS[asks]))
    return Asked(asks, minutes, count * SECONDS[asks] / 60, count, ITEMS, "new" if count > 20 else "before")


def dice_at(level: float, seed: int) -> list[float]:
    return list(np.array([-0.1, 0.0, 0.1]) + level + 0.01 * (seed - 2))


def make_study(root, seeds: Sequence[int] = SEEDS, skip: Callable[[str, float], bool] = lambda asks, minutes: False
               ) -> Settings:
    """Every run that the figure shows, as the harness would leave them: points that are covered are not run."""
    for seed in seeds:
        cell = Cell(root, 0.1, seed)
        plan_cell(cell)
        for name, level in (("finetune", 0.60), ("mean_teacher", 0.62), ("fixmatch", 0.61),
                            ("mean_teacher_encoder", 0.63), ("fixmatch_encoder", 0.615)):
            fake_run(cell, name, dice_at(level, seed))
        fake_run(cell, "prompt_only", dice_at(0.80, seed), labelled=["a", "b", "c", "d"])
        for (asks, minutes), method in POINTS.items():
            asked = answers_in(asks, minutes)
            if not skip(asks, minutes) and not is_covered(cell, DATASET, "samdpoPlans", method.stage, "0"):
                fake_run(cell, method, dice_at(0.60 + WORTH[asks] * asked.answers, seed), asked=asked)
    return Settings(root, [DATASET], chosen_methods(EFFORT_METHODS), labelled=(0.1,), seeds=tuple(seeds))


def collected(settings: Settings) -> list[Record]:
    return collect(settings, EFFORT, TWO, "samdpoPlans")


def artists(axes) -> Mapping[str, object]:
    return {one.get_gid(): one for one in axes.get_children() if one.get_gid()}


def rows_of(table) -> dict[tuple[str, str | None], dict[str, object]]:
    return {(row[0], row[1]): dict(zip(COLUMNS, row)) for section in table.sections for row in section.rows}


# ---- which points are run --------------------------------------------------------------------------------------------


def test_every_kind_of_answer_has_every_amount_of_minutes():
    assert set(POINTS) == {(asks, m) for asks in ("outlines", "boxes", "orders", "mixture") for m in MINUTES_ASKED}
    assert all(set(point.change) == {"places"} and point.base == "align" for point in EFFORT)


def test_a_point_is_done_where_fewer_minutes_asked_about_everything(tmp_path, roots):
    settings = make_study(tmp_path)
    trained = {s.stage for s in all_steps(settings, EFFORT, TWO) if s.kind == "train" and s.is_trained}
    # 57 boxes of 9 s are 8.6 minutes, 57 orders of 24 s are 22.8
    assert "align_effort_boxes_10" in trained and "align_effort_boxes_20" not in trained
    assert "align_effort_orders_60" in trained and "align_effort_mixture_20" not in trained
    steps = [s for s in all_steps(settings, EFFORT, TWO) if s.kind == "train"]
    assert all(step.is_done for step in steps)
    said = "\n".join(overview(all_steps(settings, EFFORT, TWO), settings, False))
    assert "78 trainings: 66 there, 12 covered by a run of fewer minutes." in said


def test_what_align_itself_asked_is_not_asked_again(tmp_path):
    cell = Cell(tmp_path, 0.1, 1)
    fake_run(cell, "align", asked=Asked("mixture", 10.0, 9.9, 40, ITEMS, "new"))

    def covered(asks: str, minutes: float) -> bool:
        return is_covered(cell, DATASET, "samdpoPlans", POINTS[asks, minutes].stage, "0")

    assert covered("mixture", 10.0) and not covered("mixture", 20.0) and not covered("boxes", 10.0)
    assert not is_covered(cell, DATASET, "samdpoPlans", "fixmatch", "0")


def test_volumes_have_no_such_study(tmp_path, roots):
    settings = Settings(tmp_path, [DATASET], chosen_methods(["finetune"]), labelled=(0.5,), seeds=(1,))
    stages = {s.stage for s in all_steps(settings, (*EFFORT, *ABLATIONS), {DATASET: 3}) if s.kind == "train"}
    assert "align_noise_10" in stages and not any("effort" in stage or "random" in stage for stage in stages)
    assert "align" in stages and "align_preferences" not in stages


def test_the_budget_of_a_study_is_said_first(tmp_path, roots):
    settings = Settings(tmp_path, [DATASET], chosen_methods(EFFORT_METHODS), labelled=(0.1,), seeds=(1,), device="cuda")
    said = "\n".join(overview(all_steps(settings, EFFORT, TWO), settings, False))
    assert "At most 1.3 h of training on an idle machine: 26 trainings of 3 minutes. Prompts" in said
    assert "A point of the effort study is left out where a run of fewer minutes" in said


# ---- what was asked --------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_asked(tmp_path):
    cell = Cell(tmp_path, 0.1, 1)
    asked = Asked("boxes", 5.0, 4.95, 33, 57, "judge alone")
    assert asked_about_places(fake_run(cell, POINTS["boxes", 5.0], asked=asked)) == asked
    nobody = asked_about_places(fake_run(cell, ABLATION["own_order"], asked=Asked("", 10.0, 0.0, 57, 57, "new")))
    assert (nobody.asks, nobody.minutes) == ("", 0.0)
    assert asked_about_places(fake_run(cell, "finetune")) is None


def test_more_minutes_cover_only_where_nothing_was_left_to_ask():
    some, every = Asked("boxes", 5.0, 4.9, 33, 57, "new"), Asked("boxes", 10.0, 8.6, 57, 57, "new")
    assert not some.covers("boxes", 10.0) and some.covers("boxes", 5.0) and not some.covers("orders", 5.0)
    assert every.covers("boxes", 60.0) and not every.covers("boxes", 5.0)


def test_what_was_asked_survives_benchmark_json(tmp_path):
    records = collected(make_study(tmp_path, seeds=(1,)))
    save_records(records, tmp_path)
    assert load_records(tmp_path) == records and any(r.asked for r in records)


# ---- points, table, figure -------------------------------------------------------------------------------------------


def test_points_lie_at_the_minutes_that_were_spent(tmp_path):
    (study,) = studies_of(collected(make_study(tmp_path)))
    points = {(point.asks, point.minutes_allowed): point for point in study.points}
    assert sorted(minutes for asks, minutes in points if asks == "boxes") == [2, 5, 10]
    assert points["boxes", 10.0].minutes == pytest.approx(57 * 9 / 60)
    assert points["orders", 2.0].minutes == pytest.approx(5 * 24 / 60)
    assert points["boxes", 10.0].dice == pytest.approx([0.7895, 0.7995, 0.8095])


def test_a_seed_that_needs_fewer_minutes_stands_at_more_of_them_too(tmp_path):
    settings = make_study(tmp_path, seeds=(1,))
    other = make_study(tmp_path, seeds=(2,), skip=lambda asks, minutes: asks == "boxes")
    slow = Asked("boxes", 20.0, 12.0, 57, 57, "new")  # this seed's annotator took longer
    fake_run(other.cells()[0], POINTS["boxes", 20.0], dice_at(0.7, 2), asked=slow)
    (study,) = studies_of(collected(settings))
    boxes = {point.minutes_allowed: point for point in study.points if point.asks == "boxes"}
    assert sorted(boxes) == [2, 5, 10, 20] and set(boxes[10].runs) == {1} and set(boxes[20].runs) == {1, 2}
    assert boxes[20].minutes == pytest.approx((57 * 9 / 60 + 12) / 2)


def test_shares_are_of_the_gain_of_all_labels(tmp_path):
    (study,) = studies_of(collected(make_study(tmp_path)))
    best = next(point for point in study.points if (point.asks, point.minutes_allowed) == ("boxes", 10.0))
    assert study.everything_title == "Prompt-only, all labels"
    assert study.share(best.runs) == pytest.approx(0.1995 / 0.2)
    assert study.gain(best.runs).mean == pytest.approx(0.1995) and study.gain(best.runs).sd == pytest.approx(0)


def test_finetune_on_all_labels_is_preferred_where_it_was_run(tmp_path):
    settings = make_study(tmp_path)
    for seed in SEEDS:
        cell = Cell(tmp_path, 1, seed)
        plan_cell(cell)
        fake_run(cell, "finetune", dice_at(0.85, seed), labelled=["a", "b", "c", "d"])
    (study,) = studies_of(collected(settings))
    assert study.everything_title == "finetune, all labels" and study.share(study.everything) == pytest.approx(1)
    assert {run.labelled for run in study.everything.values()} == {1}


def test_without_a_gain_of_all_labels_there_are_no_shares(tmp_path):
    settings = make_study(tmp_path)
    for seed in SEEDS:
        fake_run(Cell(tmp_path, 0.1, seed), "prompt_only", dice_at(0.5, seed), labelled=["a", "b", "c", "d"])
    (study,) = studies_of(collected(settings))
    assert study.share(study.points[0].runs) is None
    assert not figure_effort([study]).axes[0].child_axes


def test_the_table_has_what_was_spent_and_what_it_gained(tmp_path):
    table = effort_table(collected(make_study(tmp_path)), tmp_path)
    rows = rows_of(table)
    boxes = rows["boxes", "10"]
    assert (boxes["minutes spent"], boxes["answers"], boxes["seeds"], boxes["n"]) == ("8.6", "57", "3", 3)
    assert boxes["Dice"].mean == pytest.approx(0.7995) and boxes["Dice"].sd == pytest.approx(0.01)
    assert boxes["share of the full-label gain"] == "100%" and boxes["model kept"] == "new 3"
    assert rows["outlines", "2"]["model kept"] == "before 3"
    assert rows["nobody: finetune", None]["minutes spent"] == "0"
    assert rows["nobody: FixMatch", None]["share of the full-label gain"] == "5%"
    assert ("boxes", "20") not in rows
    assert table.remarks[-1] == (
        "Computing: each point was trained at most 6 minutes, from the finetune of its seed."
    )
    assert table.sections[0].title == f"{DATASET}, 10% labelled, fold 0, 3 test cases"
    assert sum("effort_boxes_10, seed 1: `labelled_0.1/seed_1/results/" in line for line in table.sources) == 1


def test_what_failed_is_a_footnote(tmp_path):
    settings = make_study(tmp_path, skip=lambda asks, minutes: (asks, minutes) == ("orders", 5.0))
    for seed in SEEDS:
        log = Cell(tmp_path, 0.1, seed).logs / "samdpo_train_901_align_effort_orders_05_0.log"
        failed(log, "samdpo_train", "no memory")
    table = effort_table(collected(settings), tmp_path)
    assert table.notes == [f"effort_orders_05, seed {seed}: no memory" for seed in SEEDS]
    assert [(row[0], row[1]) for row in table.sections[0].rows if row[6] == "failed"] == [("orders [1][2][3]", "5")]


def test_lines_begin_at_finetune_and_shades_reach_from_the_least_to_the_greatest_seed(tmp_path):
    found = artists(figure_effort(studies_of(collected(make_study(tmp_path)))).axes[0])
    line = found["mean boxes"].get_xydata()
    np.testing.assert_allclose(line[[0, -1]], [[0, 0.60], [8.55, 0.7995]])
    corners = found["seeds boxes"].get_paths()[0].vertices
    last = corners[np.isclose(corners[:, 0], 8.55), 1]
    np.testing.assert_allclose([last.min(), last.max()], [0.7895, 0.8095])
    np.testing.assert_allclose(found["level fixmatch"].get_ydata(), [0.61, 0.61])
    np.testing.assert_allclose(found["level all labels"].get_ydata(), [0.80, 0.80])


def test_the_second_axis_is_0_at_finetune_and_100_at_all_labels(tmp_path):
    axes = figure_effort(studies_of(collected(make_study(tmp_path)))).axes[0]
    axes.set_ylim(0.60, 0.80)
    (second,) = axes.child_axes
    second.draw(axes.figure.canvas.get_renderer())
    np.testing.assert_allclose(second.get_ylim(), [0, 100], atol=1e-9)


def test_the_control_that_learns_from_its_own_order_asks_nobody(tmp_path):
    settings = make_study(tmp_path)
    own: Method = ABLATION["own_order"]
    for seed in SEEDS:
        fake_run(Cell(tmp_path, 0.1, seed), own, dice_at(0.61, seed), asked=Asked("", 10.0, 0.0, 57, 57, "new"))
    records = collected(settings)
    assert rows_of(effort_table(records, tmp_path))["nobody: the judge's own order", None]["answers"] == "0"
    figure = figure_effort(studies_of(records))
    assert "level own_order" in artists(figure.axes[0])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "the judge's own order, nobody asked" in labels and len(set(labels)) == len(labels)


@pytest.mark.parametrize("panels", [1, 3])
def test_nothing_of_the_study_is_cut_off(tmp_path, panels):
    (study,) = studies_of(collected(make_study(tmp_path)))
    figure = figure_effort([study] * panels)
    renderer, inside = figure.canvas.get_renderer(), figure.bbox
    legend = figure.legends[0].get_window_extent(renderer)
    for axes in figure.axes:
        box = axes.get_tightbbox(renderer)
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= inside.x1 and box.y1 <= inside.y1
        assert not legend.overlaps(box)
    for one in (*figure.legends, *figure.texts):
        box = one.get_window_extent(renderer)
        assert box.x0 >= 0 and box.x1 <= inside.x1


def test_table_and_figure_are_written_with_the_others(tmp_path):
    settings = make_study(tmp_path)
    names = {file.name for file in write_report(settings, {"samdpoPlans": collected(settings)})}
    assert {"effort.md", "effort.csv", "effort.tex", "effort.png", "effort.pdf"} <= names
    assert "effort_boxes" not in (tmp_path / "table1.md").read_text()


def test_without_a_point_there_is_neither_table_nor_figure(tmp_path):
    settings = make_study(tmp_path, skip=lambda asks, minutes: True)
    records = collected(settings)
    assert effort_table(records, tmp_path) is None and draw_effort(records, tmp_path) == []
