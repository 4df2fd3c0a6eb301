"""What another cell has already is linked, and only where it is the very same."""

from __future__ import annotations

import json

import pytest
from fake_runs import DATASET, fake_run, plan_cell

from samdpo.files import read_json, write_json, write_text
from samdpo.lab.benchmark import cells as module
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


def judged(cell: Cell, unlabelled: list[str], components: int = 1) -> None:
    """Plan a cell whose prompts a judge of the outlines chooses, with some unlabelled images."""
    folder = plan_cell(cell)
    plan, splits = folder / "samdpoPlans.json", folder / "splits_final.json"
    content = read_json(plan)
    content["prompting"] = {**content.get("prompting", {}), "place": "judge"}
    content["structures"]["lung"]["components"] = components
    write_json(plan, content)
    write_json(splits, [{**read_json(splits)[0], "unlabelled": unlabelled}])


def files_below(folder) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("unlabelled", [["c"], ["c", "d"]])
def test_a_judge_that_images_of_another_cell_have_standardised_is_not_taken_over(roots, tmp_path, unlabelled):
    base, fewer = Cell(tmp_path, 0.5, 1), Cell(tmp_path, 0.5, 1, 0.25)
    judged(base, ["c", "d"])
    judged(fewer, unlabelled)
    fake_run(base, "finetune")
    of_base = base.preprocessed / DATASET
    of_images = {"samdpoPlans_prompts/fold_0/located/c.json", "samdpoPlans_prompts/fold_0/located/prompter/made.json",
                 "samdpoPlans_proposals/key/c.npz", "samdpoPlans_features/key/c.npz"}
    of_judge = {"samdpoPlans_prompts/fold_0/c.json", "samdpoPlans_prompts/fold_0/prompter/prompter.json"}
    for name in of_images | of_judge:
        write_text(of_base / name, "{}")
    before = files_below(fewer.preprocessed / DATASET)
    link_from_base(fewer, DATASET, "samdpoPlans", "0")
    same = unlabelled == ["c", "d"]
    assert files_below(fewer.preprocessed / DATASET) - before == (of_images | of_judge if same else of_images)
    assert any(fewer.results.rglob("checkpoint_final*")) == same


def test_where_no_structure_is_judged_the_first_stage_is_the_same(roots, tmp_path):
    base, fewer = Cell(tmp_path, 0.5, 1), Cell(tmp_path, 0.5, 1, 0.25)
    judged(base, ["c", "d"], components=2)
    judged(fewer, ["c"], components=2)
    fake_run(base, "finetune")
    link_from_base(fewer, DATASET, "samdpoPlans", "0")
    assert any(fewer.results.rglob("checkpoint_final*"))


def test_what_was_shown_of_another_cell_s_images_is_not_taken_over(roots, tmp_path):
    base, fewer = Cell(tmp_path, 0.5, 1), Cell(tmp_path, 0.5, 1, 0.25)
    plan_cell(base)
    plan_cell(fewer)
    fold = fake_run(base, "finetune")
    for name in ("candidates/set/candidates.json", "prompter/candidates"):
        write_text(fold / name, "{}")
    link_from_base(fewer, DATASET, "samdpoPlans", "0")
    taken = files_below(fewer.results / fold.relative_to(base.results))
    assert taken == files_below(fold) - {"candidates/set/candidates.json"} and "prompter/candidates" in taken


def test_nothing_is_taken_over_from_other_patients(roots, tmp_path, monkeypatch):
    base, fewer = Cell(tmp_path, 0.5, 1), Cell(tmp_path, 0.5, 1, 0.25)
    for cell in (base, fewer):
        plan_cell(cell)
    fake_run(base, "finetune")
    groups = {base.preprocessed / DATASET: {}, fewer.preprocessed / DATASET: {"a": "twins", "b": "twins"}}
    monkeypatch.setattr(module, "load_case_groups", groups.__getitem__)
    link_from_base(fewer, DATASET, "samdpoPlans", "0")
    assert not fewer.results.exists()
    groups[base.preprocessed / DATASET] = {"b": "twins", "a": "twins", "x": "of no training"}
    link_from_base(fewer, DATASET, "samdpoPlans", "0")
    assert fewer.results.exists()


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
