"""The folds' validations put together: every case once, by the fold that did not train on it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from predicted_folders import DATASET, Organs

from samdpo.errors import ModelFolderError
from samdpo.evaluation.summary import evaluate_folder
from samdpo.files import read_json, write_json
from samdpo.selection.cross_validation import accumulate_folds
from samdpo.selection.trained import trained_models


@pytest.fixture
def organs(roots) -> Organs:
    return Organs(roots.preprocessed / DATASET, roots.results / DATASET)


def test_the_union_of_the_folds_is_summarised_as_if_measured_at_once(organs):
    organs.model("finetune", 2)
    (model,) = trained_models(DATASET)
    together = accumulate_folds(model, ("0", "1", "2"))
    assert together.folder.name == "crossval_results_folds_0_1_2"
    assert sorted(together.masks) == organs.cases and together.labelled == (2, 2, 2)
    assert {f.name for f in together.folder.iterdir()} == {
        "summary.json", "plans.json", "dataset.json", *(f"{case}.png" for case in organs.cases)}
    measured = evaluate_folder(organs.preprocessed / "gt_segmentations", together.folder,
                               organs.preprocessed / "dataset.json", output=organs.results / "again.json")
    written = read_json(together.folder / "summary.json")
    for mean in ("foreground_mean", "mean"):
        np.testing.assert_equal(written[mean], measured[mean])
    assert json.dumps(written["samdpo"]) == json.dumps(measured["samdpo"])  # with NaN, which equals nothing


def test_masks_are_links_and_take_no_room(organs):
    folder = organs.model("finetune", 2)
    together = accumulate_folds(trained_models(DATASET)[0], ("0", "1", "2"))
    for case, mask in together.masks.items():
        assert mask.parent.parent.parent == folder and (together.folder / f"{case}.png").samefile(mask)


def test_masks_of_earlier_splits_do_not_stay(organs):
    folder = organs.model("finetune", 2)
    left = folder / "crossval_results_folds_0_1_2" / "case_9.png"
    left.parent.mkdir()
    left.touch()
    accumulate_folds(trained_models(DATASET)[0], ("0", "1", "2"))
    assert not left.exists()


def test_what_is_missing_is_named_with_the_command_that_makes_it(organs):
    folder = organs.model("finetune", 2, plans_name="mine")
    (model,) = trained_models(DATASET)
    with pytest.raises(ModelFolderError, match="not trained on fold 3, 4"):
        accumulate_folds(model, ("0", "1", "2", "3", "4"))
    (folder / "fold_2" / "validation" / "case_4.png").unlink()
    with pytest.raises(ModelFolderError, match=r"case_4\.png is missing.*samdpo_train 905 finetune 2 --val -p mine"):
        accumulate_folds(model, ("0", "1", "2"))
    (folder / "fold_1" / "validation" / "summary.json").unlink()
    with pytest.raises(ModelFolderError, match="samdpo_train 905 finetune 1 --val -p mine"):
        accumulate_folds(model, ("0", "1", "2"))
    assert not (folder / "crossval_results_folds_0_1_2").exists()


def test_a_case_in_two_folds_is_refused(organs):
    folder = organs.model("finetune", 2)
    for fold in (0, 1):
        file = folder / f"fold_{fold}" / "validation" / "summary.json"
        summary = read_json(file)
        summary["metric_per_case"][0]["prediction_file"] = "elsewhere/case_0.png"
        write_json(file, summary)
    (folder / "fold_1" / "validation" / "case_0.png").touch()
    with pytest.raises(ModelFolderError, match=r"case_0\.png is a validation case of two of the folds 0, 1"):
        accumulate_folds(trained_models(DATASET)[0], ("0", "1"))


def test_summaries_of_older_versions_lack_a_metric_and_count(organs):
    file = organs.model("finetune", 2, folds=(0,)) / "fold_0" / "validation" / "summary.json"
    file.write_text(file.read_text().replace('"FPSlices"', '"SomethingElse"'))
    summary = accumulate_folds(trained_models(DATASET)[0], ("0",)).summary
    assert math.isnan(summary["foreground_mean"]["FPSlices"]) and summary["foreground_mean"]["Dice"] > 0.5
    assert json.dumps(summary)
