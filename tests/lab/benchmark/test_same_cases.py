"""Runs that had other cases are never compared."""

from __future__ import annotations

import pytest
from fake_runs import DATASET, fake_run, hashes

from samdpo.errors import ConfigurationError
from samdpo.lab.benchmark.cells import Cell
from samdpo.lab.benchmark.methods import METHODS
from samdpo.lab.benchmark.records import assert_same_cases, collect_run


@pytest.fixture
def cell(tmp_path) -> Cell:
    return Cell(tmp_path, 0.5, 1)


def check(*runs: tuple[Cell, str]) -> None:
    records = [collect_run(cell, DATASET, "samdpoPlans", METHODS[method], "0") for cell, method in runs]
    assert_same_cases(records, METHODS)


def test_the_same_labels_and_test_cases_pass(cell):
    fake_run(cell, "finetune")
    fake_run(cell, "align")
    check((cell, "finetune"), (cell, "align"))


def test_other_labels_are_refused_and_both_folders_named(cell):
    one, other = fake_run(cell, "finetune"), fake_run(cell, "align", labelled=["a", "c"])
    with pytest.raises(ConfigurationError, match="trained on the labels of different cases") as refused:
        check((cell, "finetune"), (cell, "align"))
    assert str(one) in str(refused.value) and str(other) in str(refused.value)
    assert "not in both: b, c" in str(refused.value)


def test_other_test_cases_are_refused_across_cells(cell, tmp_path):
    other = Cell(tmp_path, 0.2, 2)
    fake_run(cell, "finetune")
    fake_run(other, "finetune", tested=["x", "y", "q"])
    with pytest.raises(ConfigurationError, match="tested on different cases"):
        check((cell, "finetune"), (other, "finetune"))


def test_other_seeds_may_have_other_labels(cell, tmp_path):
    other = Cell(tmp_path, 0.5, 2)
    fake_run(cell, "finetune")
    fake_run(other, "finetune", labelled=["c", "d"])
    check((cell, "finetune"), (other, "finetune"))


def test_a_label_that_is_tested_on_is_refused(cell):
    fake_run(cell, "finetune", labelled=["a", "x"])
    with pytest.raises(ConfigurationError, match="trained on labels that it is tested on: x"):
        check((cell, "finetune"))


@pytest.mark.parametrize("part", ["train", "labelled", "unlabelled", "val"])
def test_the_hashes_of_the_fold_must_agree_where_both_have_them(cell, part):
    parts = {"train": ["a", "b", "c"], "labelled": ["a", "b"], "unlabelled": ["c"], "val": ["x"]}
    fake_run(cell, "finetune", data=hashes(**parts))
    fake_run(cell, "align", data=hashes(**{**parts, part: ["another"]}))
    with pytest.raises(ConfigurationError, match=f"'{part}' cases have the hashes"):
        check((cell, "finetune"), (cell, "align"))


def test_a_labelled_case_without_a_structure_may_be_left_out(cell):
    data = hashes(train=["a", "b"], labelled=["a", "b"], unlabelled=[], val=["x"])
    fake_run(cell, "finetune", labelled=["a"], data=data)
    fake_run(cell, "align", labelled=["a", "b"], data=data)
    check((cell, "finetune"), (cell, "align"))


def test_prompt_only_has_more_labels_but_must_have_those_of_the_others(cell):
    fake_run(cell, "finetune")
    fake_run(cell, "prompt_only", labelled=["a", "b", "c", "d"])
    check((cell, "finetune"), (cell, "prompt_only"))
    fake_run(cell, "prompt_only", labelled=["a", "c", "d"])
    with pytest.raises(ConfigurationError, match="should have trained on all labels, but lacks b"):
        check((cell, "prompt_only"), (cell, "finetune"))
