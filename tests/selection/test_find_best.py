"""``samdpo_find_best_configuration``: which model, or which two together, and what to type then."""

from __future__ import annotations

import shlex
import shutil
import sys

import numpy as np
import pytest
from documented import flags_of
from predicted_folders import DATASET, NUMBER, PICTURE, Organs

from samdpo.cli.find_best_configuration import main
from samdpo.dataset.images import read_label, write_label
from samdpo.errors import ConfigurationError
from samdpo.evaluation.summary import evaluate_folder
from samdpo.files import read_json, write_json
from samdpo.selection.find_best import find_best_configuration

FOLDS = ("0", "1", "2")
FINETUNE, ALIGN = "FinetuneTrainer__samdpoPlans__finetune", "AlignTrainer__samdpoPlans__align"


@pytest.fixture
def organs(roots) -> Organs:
    return Organs(roots.preprocessed / DATASET, roots.results / DATASET)


@pytest.fixture
def said(monkeypatch, capsys):
    """Run the command; returns what it prints."""

    def typed(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["samdpo_find_best_configuration", *map(str, words), "-np", "1"])
        monkeypatch.setenv("COLUMNS", "150")
        main()
        return capsys.readouterr().out

    return typed


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.splitlines() if line.startswith("samdpo_")]


def test_the_model_of_highest_dice_over_all_folds_wins(organs):
    organs.model("finetune", 3)
    organs.model("align", 1)
    found = find_best_configuration(NUMBER, folds=FOLDS, ensembling=False)
    assert [c.name for c in found.contestants] == [ALIGN, FINETUNE]
    assert found.best.name == ALIGN
    summary = read_json(organs.results / ALIGN / "crossval_results_folds_0_1_2" / "summary.json")
    assert found.best.dice == summary["foreground_mean"]["Dice"] > found.contestants[1].dice


def test_an_ensemble_of_models_that_err_to_different_sides_wins(organs):
    organs.model("finetune", 4)
    organs.model("align", -3)
    found = find_best_configuration(NUMBER, folds=FOLDS)
    assert [m.name for m in found.best.models] == [ALIGN, FINETUNE]
    folder = organs.results / "ensembles" / f"ensemble___{ALIGN}___{FINETUNE}___0_1_2"
    assert found.best.folder == folder
    mean = (organs.shifted("case_1", 4) + organs.shifted("case_1", -3)) / 2
    np.testing.assert_array_equal(read_label(folder / "case_1.png") > 0, mean.max(0) > 0.5)
    again = evaluate_folder(organs.preprocessed / "gt_segmentations", folder, organs.preprocessed / "dataset.json",
                            output=organs.results / "again.json")
    assert found.best.dice == pytest.approx(again["foreground_mean"]["Dice"])


def test_what_to_type_for_an_ensemble_exists_and_names_both_models(organs):
    organs.model("finetune", 4)
    organs.model("align", -3)
    find_best_configuration(NUMBER, folds=FOLDS)
    typed = commands((organs.results / "inference_instructions.txt").read_text())
    assert [words[0] for words in typed] == ["samdpo_predict", "samdpo_predict", "samdpo_ensemble"]
    for words in typed:
        assert {w for w in words if w.startswith("-")} <= flags_of(words[0])
    assert "--save_probabilities" in typed[0] and typed[0][typed[0].index("-c") + 1] == "align"
    outputs = [words[words.index("-o") + 1] for words in typed]
    assert typed[2][typed[2].index("-i") + 1 : typed[2].index("-o")] == outputs[:2]


def test_the_information_has_nnunets_keys(organs):
    organs.model("finetune", 2)
    find_best_configuration(DATASET, folds=FOLDS)
    information = read_json(organs.results / "inference_information.json")
    assert {"folds", "dataset_name_or_id", "considered_models", "ensembling_allowed", "all_results",
            "best_model_or_ensemble"} <= set(information)
    assert information["folds"] == [0, 1, 2] and set(information["all_results"]) == {FINETUNE}
    best = information["best_model_or_ensemble"]
    assert best["selected_model_or_models"] == [
        {"configuration": "finetune", "trainer": "FinetuneTrainer", "plans_identifier": "samdpoPlans"}]
    assert best["result_on_crossval_pre_pp"] == information["all_results"][FINETUNE]


def test_models_not_trained_on_all_folds_are_named_and_left_out(organs, said):
    organs.model("finetune", 3)
    organs.model("align", 0, folds=(0, 1))
    out = said(NUMBER, "-f", 0, 1, 2)
    assert f"Left out: {ALIGN}: not trained on fold 2" in out
    assert f"Best on 6 validation cases of fold 0, 1, 2: {FINETUNE}" in out
    assert ALIGN in said(NUMBER, "-f", 0, 1).partition("Predict your folder")[0]


def test_where_no_model_has_all_folds_the_sentence_lists_what_they_lack(organs):
    organs.model("finetune", 3, folds=(0,))
    with pytest.raises(ConfigurationError, match=r"4\..*\(0\) with -f(.|\n)*finetune: not trained on fold 1, 2"):
        find_best_configuration(NUMBER)
    assert not (organs.results / "inference_information.json").exists()


def test_without_probabilities_single_models_are_compared_and_the_commands_for_more_are_said(organs, said):
    organs.model("finetune", 4, npz=False)
    organs.model("align", -3)
    (organs.results / ALIGN / "fold_1" / "validation" / "case_2.npz").unlink()
    out = said(NUMBER, "-f", *FOLDS)
    assert "samdpo_train 905 align 1 --val --npz" in out and "samdpo_train 905 align 0 --val" not in out
    assert all(f"samdpo_train 905 finetune {fold} --val --npz" in out for fold in FOLDS)
    assert f"{ALIGN}, Dice" in out and not (organs.results / "ensembles").exists()


def test_the_table_shows_every_contestant_with_its_structures_and_labels(organs, said):
    organs.model("finetune", 4)
    organs.model("align", -3)
    out = said(NUMBER, "-f", *FOLDS)
    for expected in ("liver", "spleen", "6 validation cases", f"{ALIGN} + {FINETUNE}", "labelled cases"):
        assert expected in out
    rows = [line for line in out.splitlines() if "Trainer__" in line and "│" in line]
    dice = [float(row.split("│")[2]) for row in rows]
    assert len(rows) == 3 and dice == sorted(dice, reverse=True)
    assert (organs.results / "inference_instructions.txt").read_text() in out


def test_a_trainer_that_the_plan_does_not_name_is_in_the_command(organs):
    folder = organs.model("finetune", 2, npz=False, trainer="mine.trainers:WarmupTrainer")
    organs.model("align", 3, npz=False)
    folder.rename(folder.with_name("WarmupTrainer__samdpoPlans__finetune"))
    found = find_best_configuration(NUMBER, folds=FOLDS)
    assert found.not_ensembled["WarmupTrainer__samdpoPlans__finetune"][0] == (
        "samdpo_train 905 finetune 0 --val --npz -tr mine.trainers:WarmupTrainer")


def test_plans_trainers_and_stages_are_chosen_by_flags(organs):
    organs.model("finetune", 1)
    organs.model("align", 2)
    organs.model("align", 3, plans_name="mine")
    assert find_best_configuration(NUMBER, folds=FOLDS, stages=["align"], ensembling=False).best.name == ALIGN
    chosen = find_best_configuration(NUMBER, folds=FOLDS, plans=["mine"])
    assert [c.name for c in chosen.contestants] == ["AlignTrainer__mine__align"]
    assert "-p mine" in chosen.text
    with pytest.raises(ConfigurationError, match=r"-c names unet, of which there is no model(.|\n)*__finetune"):
        find_best_configuration(NUMBER, folds=FOLDS, stages=["align", "unet"])


def test_models_validated_on_different_cases_are_not_compared(organs):
    organs.model("finetune", 1)
    file = organs.model("align", 1) / "fold_2" / "validation" / "summary.json"
    summary = read_json(file)
    write_json(file, {**summary, "metric_per_case": summary["metric_per_case"][:1]})
    with pytest.raises(ConfigurationError, match=r"on 5 cases and .* on 6; 1 of them are of one alone \(case_5\)"):
        find_best_configuration(NUMBER, folds=FOLDS)


def test_a_test_with_the_truths_prompt_never_takes_part(organs):
    """What was told the truth's box would win every time: its folder is never looked at."""
    organs.model("finetune", 3)
    organs.model("sam_med2d", 0, folder="validation_truth_box")
    found = find_best_configuration(NUMBER, folds=FOLDS)
    assert found.best.name == FINETUNE and "SamTrainer__samdpoPlans__sam_med2d" in found.left_out
    organs.model("sam_med2d", 5)
    found = find_best_configuration(NUMBER, folds=FOLDS, ensembling=False)
    (sam,) = (c for c in found.contestants if "sam_med2d" in c.name)
    assert sam.dice < found.best.dice


def test_the_fold_all_is_refused_since_it_validates_on_what_it_learned(organs):
    organs.model("finetune", 3)
    with pytest.raises(ConfigurationError, match="'all' validates on the cases it was trained on"):
        find_best_configuration(NUMBER, folds=["all"])


def test_nnunets_own_model_is_compared_and_never_chosen(organs, said):
    organs.model("finetune", 3)
    organs.model("nnunet", 0, npz=False, nnunetv2="2.8.1")
    out = said(NUMBER, "-f", *FOLDS)
    assert "nnUNetv2_predict_from_modelfolder" in out and f"{FINETUNE}, Dice" in out and "--npz" not in out
    assert not (organs.results / "ensembles").exists(), "samdpo_predict does not write its probabilities"


# ---- largest parts --------------------------------------------------------------------------------------------------


def test_largest_parts_are_kept_of_the_structures_they_help(organs):
    folder = organs.model("finetune", 0, specks=True)
    found = find_best_configuration(NUMBER, folds=FOLDS)
    assert set(found.postprocessing.helped) == {"liver"}
    liver = found.postprocessing.structures["liver"]
    assert liver.dice_before == pytest.approx(found.best.summary["mean"]["1"]["Dice"])
    assert liver.dice_after > liver.dice_before and found.postprocessing.dice > found.best.dice
    file = folder / "crossval_results_folds_0_1_2" / "postprocessing.json"
    assert read_json(file)["liver"]["keep_largest_component"] is True
    last = commands(found.text)[-1]
    assert last[0] == "samdpo_apply_postprocessing" and last[-1] == str(file)
    assert {w for w in last if w.startswith("-")} <= flags_of(last[0])


def test_a_structure_that_truly_has_two_parts_is_left_alone(organs):
    for case in organs.cases:
        truth = read_label(organs.preprocessed / "gt_segmentations" / f"{case}.png")
        truth[0, 30:33, 8:11] = 1
        write_label(truth, organs.preprocessed / "gt_segmentations" / f"{case}.png", PICTURE)
    organs.model("finetune", 0, specks=True)
    found = find_best_configuration(NUMBER, folds=FOLDS)
    assert found.postprocessing.helped == {} and "No postprocessing" in found.text
    assert found.postprocessing.dice == pytest.approx(found.best.dice)


# ---- with trained models --------------------------------------------------------------------------------------------


def test_trained_stages_are_compared_and_ensembled_as_typed(aligned, said):
    assert "samdpo_train 901 align 0 --val --npz" in said(901, "-f", 0)
    for stage in ("finetune", "align"):
        aligned.trainer(stage).train(only_validate=True, save_probabilities=True)
    shutil.rmtree(aligned.raw)  # only the preprocessed truth is needed
    out = said(901, "-f", 0)
    assert "--npz" not in out
    assert (aligned.results / "ensembles").is_dir()
    assert len(read_json(aligned.results / "inference_information.json")["all_results"]) == 3
