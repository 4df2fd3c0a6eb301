"""Stage 2: what it needs, what it changes, what it logs, its controls and variants."""

from __future__ import annotations

import dataclasses
import math
import shutil

import numpy as np
import pytest
import torch

from samdpo.errors import TrainingError
from samdpo.files import read_json, write_json
from samdpo.networks.weights import load_weights
from samdpo.preferences.losses import REWARD_METRICS
from samdpo.training.checkpoints import FINAL


def step(phantoms, stage: str, *overrides: str) -> dict[str, float]:
    """The first step of a stage."""
    trainer = phantoms.trainer(stage, *overrides)
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_epoch_start(0)
    metrics = trainer.train_step(next(iter(trainer.train_batches(0))))
    trainer.run_log.close()
    assert all(torch.isfinite(p).all() for p in trainer.network.parameters())
    return metrics


def test_before_finetune_it_says_what_to_type(planned):
    with pytest.raises(TrainingError, match=r"Type first: samdpo_train 901 finetune 0"):
        planned.trainer("align")


def test_without_unlabelled_images_it_says_where_to_put_them(finetuned):
    trainer = without_unlabelled(finetuned, keep=())
    with pytest.raises(TrainingError, match=r"imagesUl/.*samdpo_plan_and_preprocess -d 901 --labelled 0\.1"):
        trainer("align").initialize()


def test_images_whose_truth_nobody_knows_can_only_be_self_trained(finetuned):
    trainer = without_unlabelled(finetuned, keep=("xray_ul_001", "xray_ul_002"))
    with pytest.raises(TrainingError, match=r"hidden truth.*samdpo_train 901 align_self_training 0"):
        trainer("align").initialize()
    self_training = trainer("align_self_training")
    self_training.initialize()
    self_training.run_training()
    assert len(self_training.unlabelled_keys) == 2 and (self_training.fold_folder / FINAL).is_file()


def without_unlabelled(phantoms, keep: tuple[str, ...]):
    """Trainers of a dataset whose fold has ``keep`` as its only unlabelled cases."""
    file = phantoms.preprocessed / "splits_final.json"
    splits = read_json(file)
    for fold in splits:
        fold["unlabelled"] = list(keep)
    write_json(file, splits)
    return phantoms.trainer


def test_only_the_mask_decoder_changes(aligned):
    before, after = (load_weights(m / "fold_0" / FINAL) for m in (aligned.finetuned, aligned.aligned))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"mask_decoder"}


def test_the_first_loss_is_ln_2_and_the_rewards_are_zero(finetuned):
    metrics = step(finetuned, "align_preferences")
    assert metrics["loss/preference"] == pytest.approx(math.log(2), abs=1e-5)
    assert metrics["rewards/margins"] == pytest.approx(0, abs=1e-5)


def test_the_history_has_the_metric_names_of_every_preference_method(finetuned):
    trainer = finetuned.train("align_preferences", "epochs=1")
    assert set(REWARD_METRICS) <= set(trainer.run_log.history)
    assert {"loss", "loss/preference", "loss/anchor"} <= set(trainer.run_log.history)


def test_preferences_are_followed_better_after_some_epochs(finetuned):
    trainer = finetuned.trainer("align_preferences", "epochs=6", "lr=0.0005", "loss.anchor_weight=0")
    trainer.initialize()
    trainer.run_training()
    history = trainer.run_log.history
    assert np.mean(history["loss/preference"][-2:]) < history["loss/preference"][0]


def test_the_description_names_its_stage_and_where_confidence_is_low(aligned):
    described = read_json(aligned.aligned / "fold_0" / "model.json")
    assert described["stage"] == "align"
    assert 0 < described["confidence_threshold"]["lung"] < 1


@pytest.mark.parametrize("stage", ["align_self_training", "align_best_candidate"])
def test_the_controls_train_on_the_same_images(finetuned, stage):
    trainer = finetuned.train(stage, "epochs=1")
    assert (finetuned.results / f"AlignTrainer__samdpoPlans__{stage}" / "fold_0" / FINAL).is_file()
    assert "rewards/margins" not in trainer.run_log.history
    expected = {"align_self_training": 7, "align_best_candidate": 5}[stage]
    assert len(trainer.unlabelled_keys) == expected


@pytest.mark.parametrize(
    "override",
    [
        "annotator.noise=0.2", "annotator.scoring=rating", "annotator.scoring=best", "loss.type=ipo",
        "loss.type=hinge", "loss.type=robust", "loss.reduction=sum", "loss.reduction=mean",
        "candidates.kind=thresholds", "candidates.kind=hypotheses", "candidates.count=2", "labelled_per_step=0",
    ],
)
def test_a_setting_is_one_word_on_the_command_line(finetuned, override):
    assert np.isfinite(step(finetuned, "align_preferences", override)["loss"])


def test_a_variant_of_the_plan_is_a_stage_of_its_own(finetuned):
    content = {"inherits_from": "samdpoPlans", "configurations": {
        "align_sum": {"inherits_from": "align_preferences", "epochs": 1, "loss": {"reduction": "sum"}}}}
    write_json(finetuned.preprocessed / "mine.json", content)
    shutil.copytree(finetuned.preprocessed / "samdpoPlans_prompts", finetuned.preprocessed / "mine_prompts")
    with pytest.raises(TrainingError, match="samdpo_train 901 finetune 0 -p mine"):
        finetuned.trainer("align_sum", plans_name="mine")
    finetuned.train("finetune", "epochs=1", plans_name="mine")
    trainer = finetuned.train("align_sum", plans_name="mine")
    assert trainer.folder.name == "AlignTrainer__mine__align_sum" and trainer.stage.loss.reduction == "sum"


@pytest.mark.parametrize("stage", ["align_preferences", "mean_teacher"])
def test_nothing_is_learned_from_other_images_of_patients_who_are_held_back(finetuned, stage):
    def unlabelled(groups: dict[str, str]) -> set[str]:
        trainer = finetuned.trainer(stage, "held_back=0.4")
        trainer.data = dataclasses.replace(trainer.data, groups=groups)
        trainer.initialize()
        return {case for case, _ in trainer.unlabelled_keys}

    train, held_back = finetuned.trainer(stage, "held_back=0.4").do_split()
    every = sorted(unlabelled({}))
    assert held_back and len(every) > 2
    found = unlabelled({every[0]: held_back[0], every[1]: train[0], every[2]: "another"})
    assert found == {*every[1:]}
