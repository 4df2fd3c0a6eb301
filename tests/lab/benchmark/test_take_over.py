"""What another cell has already is linked, and only where it is the very same."""

from __future__ import annotations

import json

import pytest
from fake_runs import DATASET, fake_run, plan_cell

from samdpo.files import read_json, write_json, write_text
from samdpo.lab.benchmark.cells import Cell, link_from_base, link_from_other_shares, log_file
from samdpo.lab.benchmark.execute import Cost, cost_of, failed


def test_fewer_unlabelled_images_have_the_same_first_stage(roots, tmp_path):
    base, fewer = Cell(tmp_path, 0.5, 1), Cell(tmp_path, 0.5, 1, 0.25)
    plan_cell(base)
    plan_cell(fewer)
    file = fake_run(base, "finetune") / "checkpoint_final.safetensors"
    write_text(base.preprocessed / DATASET / "samdpoPlans_prompts" / "fold_0" / "x.json", "{}")
    link_from_base(fewer, DATASET, "samdpoPlans", "0")
    assert (fewer.results / file.relative_to(base.results)).samefile(file)
    assert (fewer.results / file.relative_to(base.results)).parents[1].joinpath("plans.json").is_file()
    assert (fewer.preprocessed / DATASET / "samdpoPlans_prompts" / "fold_0" / "x.json").is_file()


def test_nothing_is_taken_over_from_other_labels(roots, tmp_path):
    base, fewer = Cell(tmp_path, 0.5, 1), Cell(tmp_path, 0.5, 1, 0.25)
    plan_cell(base)
    splits = plan_cell(fewer) / "splits_final.json"
    write_json(splits, [{**read_json(splits)[0], "labelled": ["a"]}])
    fake_run(base, "finetune")
    link_from_base(fewer, DATASET, "samdpoPlans", "0")
    assert not fewer.results.exists()


@pytest.fixture
def shares(tmp_path):
    """Two cells of one seed with other labelled cases; the first has trained ``prompt_only``."""
    few, many = Cell(tmp_path, 0.1, 1), Cell(tmp_path, 0.5, 1)
    for cell, labelled in ((few, ["a"]), (many, ["a", "b"])):
        file = plan_cell(cell, ["finetune", "prompt_only"]) / "splits_final.json"
        write_json(file, [{**read_json(file)[0], "labelled": labelled}])
    fake_run(few, "prompt_only")
    log = log_file(few, "samdpo_train", DATASET, "samdpoPlans", "prompt_only", "0")
    write_text(log, "$ samdpo_train 901 prompt_only 0")
    write_json(log.with_suffix(".json"), Cost("samdpo_train 901 prompt_only 0", "done", cpu_seconds=60).__dict__)
    return few, many


def taken_over(cell: Cell) -> bool:
    link_from_other_shares(cell, DATASET, "samdpoPlans", "prompt_only", "0")
    return any(cell.results.rglob("checkpoint_final*"))


def test_a_run_on_all_labels_is_the_same_for_every_share(roots, shares):
    few, many = shares
    log = log_file(many, "samdpo_train", DATASET, "samdpoPlans", "prompt_only", "0")
    failed(log, "samdpo_train 901 prompt_only 0", "an earlier try")
    assert taken_over(many)
    assert cost_of(log).cpu_seconds == 60 and cost_of(log).status == "done"
    with log.open("a") as file:
        file.write("again")
    assert "again" not in log_file(few, "samdpo_train", DATASET, "samdpoPlans", "prompt_only", "0").read_text()


def test_another_seed_is_another_run(roots, shares, tmp_path):
    other = Cell(tmp_path, 0.5, 2)
    plan_cell(other, ["finetune", "prompt_only"])
    assert not taken_over(other)


@pytest.mark.parametrize("changed", ["fold", "plan"])
def test_nothing_is_taken_over_from_other_folds_or_plans(roots, shares, changed):
    folder = shares[1].preprocessed / DATASET
    if changed == "fold":
        file = folder / "splits_final.json"
        write_json(file, [{**read_json(file)[0], "val": ["x", "y"]}])
    else:
        file = folder / "samdpoPlans.json"
        content = json.loads(file.read_text())
        content["configurations"]["prompt_only"]["epochs"] = 77
        write_json(file, content)
    assert not taken_over(shares[1])
