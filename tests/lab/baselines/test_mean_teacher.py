"""Mean teacher: an average of the student's weights teaches it, and is what is kept; no truth is looked at."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from two_views import begun, forbid_hidden_truth, mirror_exactly, weights_of_a_run

from samdpo.lab.baselines.mean_teacher import ema_decay, follow, ramp_up
from samdpo.networks.weights import load_weights
from samdpo.training.checkpoints import BEST, FINAL

STAGE = "mean_teacher"


def test_the_ramp_up_is_the_sigmoid_of_laine_and_aila():
    assert ramp_up(0, 10) == pytest.approx(math.exp(-5))
    assert ramp_up(5, 10) == pytest.approx(math.exp(-5 * 0.25))
    assert ramp_up(10, 10) == ramp_up(99, 10) == ramp_up(0, 0) == 1
    assert all(ramp_up(i, 10) < ramp_up(i + 1, 10) for i in range(10))


def test_the_teacher_is_the_mean_of_the_first_weights_and_then_their_moving_average():
    weights = [torch.tensor([float(i)]) for i in (3, 5, 1, 7)]
    student, teacher = nn.Linear(1, 1), nn.Linear(1, 1)
    for module in (student, teacher):
        module.weight.data[:], module.bias.data[:] = weights[0], -weights[0]
    for step, weight in enumerate(weights[1:], start=1):
        student.weight.data[:], student.bias.data[:] = weight, -weight
        follow(teacher, student, ema_decay(step, 0.99))
    assert teacher.weight.item() == pytest.approx(4.0) and teacher.bias.item() == pytest.approx(-4.0)
    follow(teacher, student, ema_decay(1000, 0.9))
    assert teacher.weight.item() == pytest.approx(0.9 * 4 + 0.1 * 7)


def test_the_students_steps_move_the_teacher_by_the_formula(finetuned):
    trainer = begun(finetuned, STAGE)
    start = [p.clone() for p in trainer.teacher.parameters()]
    batches = list(trainer.train_batches(0))
    assert len(batches) == trainer.steps_per_epoch > 1
    expected = start
    for step, batch in enumerate(batches, start=1):
        trainer.train_step(batch)
        decay = min(1 - 1 / (step + 1), trainer.stage.consistency.ema_decay)
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, trainer.student.parameters())]
    for found, wanted in zip(trainer.teacher.parameters(), expected):
        torch.testing.assert_close(found, wanted)
    assert any(not torch.equal(a, b) for a, b in zip(start, trainer.teacher.parameters()))


def test_teacher_and_student_see_other_views_and_prompts_in_the_same_place(finetuned):
    trainer = begun(finetuned, STAGE)
    corrupted = replace(trainer.stage.augmentation, prompt_corruption=1.0)  # as a stage of one's own may inherit it
    trainer.stage = replace(trainer.stage, augmentation=corrupted)
    batches = [b.unlabelled for _ in range(4) for b in trainer.train_batches(0)]
    pairs = [pair for views in batches for pair in zip(views.weak.samples, views.strong.samples)]
    assert {weak.view.flip == strong.view.flip for weak, strong in pairs} == {True, False}
    for weak, strong in pairs:
        assert weak.view.seed is None and strong.view.seed is not None
        assert weak.truth is None and strong.truth is None
    for views in batches:
        weak = views.weak.prompts.boxes.clone()
        mirrored = views.as_strong(torch.arange(256.0).expand(len(weak), 256, 256))[:, 0, 0] == 255
        weak[mirrored] = weak[mirrored][..., [2, 1, 0, 3]]
        weak[mirrored] *= torch.tensor([-1, 1, -1, 1])
        weak[mirrored] += torch.tensor([256, 0, 256, 0])
        moved = (views.strong.prompts.boxes - weak).abs()[views.strong.prompts.boxes_valid]
        assert 0 < moved.max() < 256 * trainer.stage.augmentation.box_jitter


def test_a_network_that_mirrors_exactly_is_consistent(finetuned, monkeypatch):
    trainer = begun(finetuned, STAGE)
    mirror_exactly(trainer, monkeypatch)
    trainer.step = 1000
    views = next(iter(trainer.train_batches(0))).unlabelled
    loss, metrics = trainer.unlabelled_loss(views)
    assert loss.item() == metrics["loss/consistency"] == 0
    monkeypatch.setattr(type(views), "as_strong", lambda self, masks: masks)
    assert trainer.unlabelled_loss(opposite(trainer))[0].item() > 1e-4


def opposite(trainer):
    """Views of which some are mirrored and others not."""
    for batch in trainer.train_batches(0):
        pairs = zip(batch.unlabelled.weak.samples, batch.unlabelled.strong.samples)
        if any(weak.view.flip != strong.view.flip for weak, strong in pairs):
            return batch.unlabelled
    raise AssertionError("every pair is the same view")


def test_the_weight_of_consistency_grows_over_the_steps(finetuned):
    trainer = begun(finetuned, STAGE, "epochs=2", "consistency.ramp_up=1", "consistency.weight=3")
    total, found = 2 * trainer.steps_per_epoch, []
    for epoch in range(2):
        trainer.on_epoch_start(epoch)
        found += [trainer.train_step(batch)["consistency_weight"] for batch in trainer.train_batches(epoch)]
    assert found == pytest.approx([3 * math.exp(-5 * (1 - i / total) ** 2) for i in range(total)])


def test_no_truth_of_an_unlabelled_image_is_read(located, monkeypatch):
    trainer = located.trainer(STAGE, "epochs=1", "structures.lung.components=1", "prompt_rounds=1")
    trainer.initialize()
    forbid_hidden_truth(trainer, monkeypatch)
    trainer.run_training()
    assert len(trainer.unlabelled_keys) == 7 and (trainer.fold_folder / "prompts").is_dir()
    assert "unlabelled_dice" not in trainer.run_log.history


def test_the_teacher_is_kept_and_only_its_mask_decoder_is_new(finetuned):
    trainer = finetuned.trainer(STAGE, "epochs=1", "held_back=0.4")
    trainer.initialize()
    trainer.run_training()
    before, final, best = (load_weights(f) for f in (
        finetuned.finetuned / "fold_0" / FINAL, trainer.fold_folder / FINAL, trainer.fold_folder / BEST))
    assert {n.split(".")[0] for n in before if not torch.equal(before[n], final[n])} == {"mask_decoder"}
    for kept in (final, best):
        for name, value in trainer.teacher.state_dict().items():
            assert torch.equal(kept[f"mask_decoder.{name}"], value)
    assert any(not torch.equal(a, b) for a, b in zip(trainer.teacher.parameters(), trainer.student.parameters()))


def test_a_training_that_is_stopped_and_continued_ends_with_the_same_bytes(finetuned):
    settings = ("epochs=2", "consistency.weight=100")
    whole = weights_of_a_run(finetuned, STAGE, *settings)
    assert weights_of_a_run(finetuned, STAGE, *settings, stops_after=1) == whole
