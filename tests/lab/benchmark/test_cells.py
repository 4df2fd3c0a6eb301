"""Cells take over what is computed elsewhere, and never write into it."""

from __future__ import annotations

import pytest
from fake_runs import DATASET, plan_cell

from samdpo.files import read_json, write_json, write_text
from samdpo.lab.benchmark.cells import Cell, cells_on_disk, is_planned, link_dataset
from samdpo.lab.benchmark.settings import Settings
from samdpo.lab.benchmark.steps import planning_words


@pytest.fixture
def own(roots):
    """The user's preprocessed dataset, with one slice, one feature and one truth."""
    folder = roots.preprocessed / DATASET
    for name in ("samdpoPlans_2d_256/a.b2nd", "samdpoPlans_features/a.npy", "gt_segmentations/a.png"):
        write_text(folder / name, name)
    write_json(folder / "dataset_fingerprint.json", {"shapes": [[1, 2, 3]]})
    return folder


def test_slices_features_and_truths_are_links_that_a_cell_may_replace(own, tmp_path):
    target = Cell(tmp_path, 0.1, 1).preprocessed / DATASET
    link_dataset(Cell(tmp_path, 0.1, 1), DATASET, "samdpoPlans")
    for file in (own / "samdpoPlans_2d_256").parent.rglob("*.*"):
        linked = target / file.relative_to(own)
        assert linked.samefile(file)
        write_text(linked, "other")
        assert file.read_text() != "other"


def test_a_plan_of_another_name_begins_with_the_same_slices(own, tmp_path):
    link_dataset(Cell(tmp_path, 0.1, 1), DATASET, "myPlans")
    target = Cell(tmp_path, 0.1, 1).preprocessed / DATASET
    assert (target / "myPlans_2d_256" / "a.b2nd").is_file() and not (target / "myPlans_features").exists()


def test_without_a_users_own_the_slices_come_from_another_cell(roots, tmp_path):
    first, second = Cell(tmp_path, 0.1, 1), Cell(tmp_path, 0.1, 2)
    write_text(first.preprocessed / DATASET / "samdpoPlans_2d_256" / "a.b2nd", "slice")
    link_dataset(second, DATASET, "samdpoPlans")
    assert (second.preprocessed / DATASET / "samdpoPlans_2d_256" / "a.b2nd").read_text() == "slice"


def test_what_a_cell_has_stays_as_it_is(own, tmp_path):
    cell = Cell(tmp_path, 0.1, 1)
    folder = plan_cell(cell)
    before = {file: file.stat().st_ino for file in folder.rglob("*")}
    link_dataset(cell, DATASET, "samdpoPlans")
    assert {file: file.stat().st_ino for file in before} == before
    assert list((folder / "samdpoPlans_2d_256").iterdir()) == []


def test_folds_that_a_user_chose_are_taken_over_without_his_choice_of_labels(own, tmp_path):
    write_json(own / "splits_final.json", [{"train": ["a", "b"], "val": ["c"], "labelled": ["a"], "unlabelled": ["b"]}])
    cell = Cell(tmp_path, 0.1, 1)
    link_dataset(cell, DATASET, "samdpoPlans")
    assert read_json(cell.preprocessed / DATASET / "splits_final.json") == [{"train": ["a", "b"], "val": ["c"]}]


def test_a_cell_is_planned_when_its_plan_has_every_stage(roots, tmp_path):
    cell = Cell(tmp_path, 0.1, 1)
    assert not is_planned(cell, DATASET, "samdpoPlans", ["finetune"])
    plan_cell(cell, ["finetune", "align"])
    assert is_planned(cell, DATASET, "samdpoPlans", ["finetune", "align"])
    assert not is_planned(cell, DATASET, "samdpoPlans", ["unet"])


def test_a_users_variant_comes_with_the_plan_that_it_inherits_from(own, tmp_path):
    write_json(own / "samdpoPlans.json", {"plans_name": "samdpoPlans"})
    write_json(own / "sumPlans.json", {"inherits_from": "samdpoPlans", "prompting": {"n_points": 8}})
    cell = Cell(tmp_path, 0.1, 1)
    link_dataset(cell, DATASET, "sumPlans")
    target = cell.preprocessed / DATASET
    assert (target / "sumPlans.json").is_file() and not (target / "samdpoPlans.json").exists()
    assert not is_planned(cell, DATASET, "sumPlans", [])
    assert "-overwrite_plans_name" not in planning_words(cell, DATASET, "sumPlans", Settings(tmp_path, [DATASET], []))
    plan_cell(cell)
    assert is_planned(cell, DATASET, "sumPlans", ["finetune"])


def test_cells_are_found_by_their_folders(tmp_path):
    cells = [Cell(tmp_path, 0.1, 1), Cell(tmp_path, 0.1, 2), Cell(tmp_path, 0.1, 1, 0.2), Cell(tmp_path, 1.0, 1)]
    for cell in cells:
        cell.folder.mkdir(parents=True)
    (tmp_path / "labelled_most" / "seed_1").mkdir(parents=True)
    assert cells_on_disk(tmp_path) == cells


def test_a_cell_is_planned_by_the_command_a_user_would_type(roots, tmp_path):
    settings = Settings(tmp_path, [DATASET], [], planner="PaperPlanner", backbone="mobile_sam", processes=2)
    assert " ".join(planning_words(Cell(tmp_path, 0.1, 2, 0.4), DATASET, "samPlans", settings)) == (
        "samdpo_plan_and_preprocess -d 901 --labelled 0.1 --unlabelled 0.4 --seed 2 -np 2 "
        "-overwrite_plans_name samPlans -pl PaperPlanner -backbone mobile_sam"
    )
