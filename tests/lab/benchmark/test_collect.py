"""Run folders become records, with everything that traces a number to its file."""

from __future__ import annotations

import math

import pytest
from fake_runs import DATASET, LABELLED, TESTED, fake_run, plan_cell

from samdpo.errors import ConfigurationError
from samdpo.files import hash_of, read_json, write_json
from samdpo.lab.benchmark.cells import Cell
from samdpo.lab.benchmark.execute import failed
from samdpo.lab.benchmark.methods import METHODS
from samdpo.lab.benchmark.records import collect_run, load_records, save_records


@pytest.fixture
def cell(tmp_path) -> Cell:
    return Cell(tmp_path, 0.5, 1)


def collected(cell: Cell, method: str = "finetune"):
    return collect_run(cell, DATASET, "samdpoPlans", METHODS[method], "0")


def test_a_finished_run_is_read_whole(cell):
    folder = fake_run(cell, "align_preferences", dice=[0.2, 0.4, 0.9])
    plan_cell(cell)
    record = collected(cell, "align_preferences")
    assert record.done and record.folder == folder and record.summary == folder / "validation" / "summary.json"
    assert record.metrics["Dice"] == pytest.approx(0.5) and set(record.metrics) == {"Dice", "IoU", "SurfaceDice"}
    assert record.per_case == {"x": 0.2, "y": 0.4, "z": 0.9}
    assert (record.n_labelled, record.n_unlabelled, record.epochs) == (2, 2, 3)
    assert (record.minutes_allowed, record.train_minutes, record.cpu_minutes) == (6, 1.5, None)
    assert record.labelled_hash == hash_of(LABELLED) and record.val_hash == hash_of(TESTED)
    assert record.judgement_bits == pytest.approx(3 * math.log2(24)) and record.asked is None


@pytest.mark.parametrize("missing", ["checkpoint_final.safetensors", "model.json", "validation/summary.json"])
def test_a_run_that_is_not_whole_is_missing(cell, missing):
    (fake_run(cell, "finetune") / missing).unlink()
    assert collected(cell).status == "missing"


def test_a_failure_has_its_reason(cell):
    failed(cell.logs / "samdpo_train_901_finetune_0.log", "samdpo_train 901 finetune 0", "no memory")
    record = collected(cell)
    assert (record.status, record.reason, record.summary) == ("failed", "no memory", None)


def test_the_truths_prompts_have_masks_of_their_own(cell):
    fake_run(cell, "sam", dice=[0.1, 0.1, 0.1])
    assert collected(cell, "sam").done and not collected(cell, "sam_truth_box").done
    fake_run(cell, "sam_truth_box", dice=[0.9, 0.9, 0.9])
    assert collected(cell, "sam").metrics["Dice"] == pytest.approx(0.1)
    assert collected(cell, "sam_truth_box").metrics["Dice"] == pytest.approx(0.9)


def test_a_method_that_two_trainers_trained_is_refused(cell):
    folder = fake_run(cell, "finetune")
    other = folder.parents[1] / "MyTrainer__samdpoPlans__finetune" / "fold_0"
    other.mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="several trainers: .*MyTrainer"):
        collected(cell)


def test_a_damaged_summary_is_a_sentence(cell):
    folder = fake_run(cell, "finetune")
    write_json(folder / "validation" / "summary.json", {"mean": {}})
    with pytest.raises(ConfigurationError, match=r"summary\.json is no summary of ours.*--val"):
        collected(cell)


def test_structures_that_a_case_does_not_have_are_left_out_of_its_dice(cell):
    folder = fake_run(cell, "finetune")
    summary = read_json(folder / "validation" / "summary.json")
    summary["metric_per_case"][0]["metrics"]["2"] = {"Dice": math.nan}
    summary["metric_per_case"][1]["metrics"] = {"1": {"Dice": math.nan}}
    write_json(folder / "validation" / "summary.json", summary)
    per_case = collected(cell).per_case
    assert per_case["x"] == 0.5 and math.isnan(per_case["y"])


def test_records_survive_their_file_and_a_move_of_the_folder(cell, tmp_path):
    fake_run(cell, "finetune")
    records = [collected(cell), collected(cell, "align")]
    save_records(records, tmp_path, {"budget": "6 minutes"})
    assert load_records(tmp_path) == records
    content = read_json(tmp_path / "benchmark.json")
    assert content["budget"] == "6 minutes" and str(tmp_path) not in (tmp_path / "benchmark.json").read_text()
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert load_records(moved)[0].summary.is_file()
    write_json(moved / "benchmark.json", {"runs": [{"colour": "red"}]})
    with pytest.raises(ConfigurationError, match="--only_collect"):
        load_records(moved)
