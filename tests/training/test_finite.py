"""A loss or a weight that is no number stops a training; nothing is averaged, chosen or saved of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from samdpo.errors import TrainingError
from samdpo.networks.weights import load_weights
from samdpo.prompting.calibration import calibrate
from samdpo.training import checkpoints
from samdpo.training.measures import CUTS, best_cut


def with_step(trainer, change):
    """A trainer whose steps of the second epoch are changed."""
    step = trainer.train_step

    def changed(batch):
        metrics = step(batch)
        return change(trainer, metrics) if trainer.current_epoch == 1 else metrics

    trainer.train_step = changed
    return trainer


def lost(trainer, metrics):
    return {**metrics, "loss": torch.tensor(torch.nan), "loss/part": torch.tensor(torch.inf)}


def broken(trainer, metrics):
    trainer.count = getattr(trainer, "count", 0) + 1
    if trainer.count < 2:  # in the last step of the epoch, so that no loss has seen it
        return metrics
    with torch.no_grad():
        next(p for p in trainer.network.parameters() if p.requires_grad).fill_(torch.inf)
    return metrics


@pytest.mark.parametrize(("change", "said"), [
    (lost, r"loss of step 1 of epoch 2 is not a number \(loss nan, loss/part inf\).*after epoch 1.*kept.*lr=0\.0003"),
    (broken, r"In epoch 2 the weight '.*' has become infinite.*after epoch 1.*kept"),
])
def test_what_is_no_number_stops_the_training_and_the_last_good_weights_stay(planned, change, said):
    trainer = with_step(planned.trainer("finetune", "epochs=3", "save_every=1"), change)
    with pytest.raises(TrainingError, match=said):
        trainer.train()
    weights, state = checkpoints.load_latest(trainer.fold_folder)
    assert state["epoch"] == 1 and all(w.isfinite().all() for w in weights.values() if w.is_floating_point())
    assert not (trainer.fold_folder / checkpoints.FINAL).exists()


@pytest.mark.parametrize(("stage", "settings", "keys"), [
    ("finetune", (), ["lr", "encoder_lr"]),
    ("finetune", ("network.frozen_stages=-1",), ["lr"]),
    ("align_self_training", (), ["lr"]),
    ("mean_teacher", (), ["lr"]),
    ("mean_teacher_encoder", (), ["lr", "consistency.encoder_lr"]),
    ("fixmatch_encoder", (), ["lr", "consistency.encoder_lr"]),
    ("unet", (), ["lr"]),
])
def test_the_advice_names_the_rates_that_the_stage_reads_and_no_other(finetuned, stage, settings, keys):
    trainer = finetuned.trainer(stage, *settings)
    trainer.initialize()
    with pytest.raises(TrainingError) as said:
        trainer.check_finite(0, [{"loss": np.nan}])
    words = str(said.value).partition("--set ")[2].partition(". If that")[0].split()
    assert [key for key in (word.partition("=")[0] for word in words) if key != "precision"] == keys
    typed = finetuned.trainer(stage, *settings, *words)
    typed.initialize()
    before, after = ([group["lr"] for group in one.optimizer.param_groups] for one in (trainer, typed))
    assert len(after) == len(keys) and after == pytest.approx([rate / 10 for rate in before])


def test_float16_may_leave_out_steps_that_overflow_but_not_all_of_an_epoch(planned):
    trainer = planned.trainer("finetune")
    trainer.initialize()
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=True)
    trainer.check_finite(0, [{"loss": np.nan}, {"loss": 0.5}])
    with pytest.raises(TrainingError, match="not a number"):
        trainer.check_finite(0, [{"loss": np.nan}, {"loss": np.inf}])


def test_a_finished_fold_stays_where_training_anew_fails(finetuned):
    final = finetuned.finetuned / "fold_0" / checkpoints.FINAL
    before = final.read_bytes()
    with pytest.raises(TrainingError, match="not a number"):
        with_step(finetuned.trainer("finetune", "epochs=2", "seed=3"), lost).train()
    assert final.read_bytes() == before and load_weights(final)


def test_no_number_never_wins():
    dices = np.full((2, len(CUTS)), 0.5)
    dices[0, 1], dices[:, 2] = 0.9, np.nan
    assert best_cut(dices) == (pytest.approx(0.7), CUTS[1])
    assert np.isnan(best_cut(np.full((2, len(CUTS)), np.nan))[0])


def test_saliency_that_is_no_number_is_not_calibrated():
    mask = np.zeros((4, 4), bool)
    mask[0] = True
    with pytest.raises(TrainingError, match="saliency"):
        calibrate([np.full((4, 4), np.nan)], [mask], may_be_absent=True)
