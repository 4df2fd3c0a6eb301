"""FixMatch: only what the weak view is sure of teaches the strong one; no truth is looked at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from two_views import begun, forbid_hidden_truth, mirror_exactly, weights_of_a_run

from samdpo.errors import PlansError
from samdpo.plans import SegmentationLossPlan
from samdpo.preferences.losses import segmentation_loss

STAGE = "fixmatch"


def logits_and_target(share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (2, 32, 32), and probabilities that are sure on the first ``share`` of the rows alone."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 32, 32, generator=generator, requires_grad=True)
    target = 0.5 + 0.4 * (torch.rand(2, 32, 32, generator=generator) - 0.5)
    sure = (torch.rand(2, 32, 32, generator=generator) > 0.5).float() * 0.98 + 0.01
    rows = round(32 * share)
    target[:, :rows] = sure[:, :rows]
    return logits, target


def test_where_nothing_is_confident_nothing_is_learned(finetuned):
    trainer = begun(finetuned, STAGE)
    logits, target = logits_and_target(0)
    loss, metrics = trainer.consistency_loss(logits, target)
    loss.backward()
    assert loss.item() == metrics["confident"] == 0 and not logits.grad.any()


def test_only_confident_pixels_are_learned_from_and_their_share_is_logged(finetuned):
    trainer = begun(finetuned, STAGE, "consistency.weight=2")
    logits, target = logits_and_target(0.25)
    loss, metrics = trainer.consistency_loss(logits, target)
    loss.backward()
    assert metrics["confident"] == pytest.approx(0.25)
    assert logits.grad[:, :8].all() and not logits.grad[:, 8:].any()
    alone = segmentation_loss(logits[:, :8], target[:, :8] > 0.5, SegmentationLossPlan()).mean()
    assert metrics["loss/consistency"] == pytest.approx(alone.item(), rel=1e-5)
    assert loss.item() == pytest.approx(2 * alone.item(), rel=1e-5)


@pytest.mark.parametrize(("confidence", "share"), [(0.5, 1.0), (0.985, 0.25), (0.995, 0.0)])
def test_the_threshold_counts_on_both_sides(finetuned, confidence, share):
    trainer = begun(finetuned, STAGE, f"consistency.confidence={confidence}")
    assert trainer.consistency_loss(*logits_and_target(0.25))[1]["confident"] == pytest.approx(share)


def test_the_strong_view_is_the_mirror_image_with_a_jittered_prompt(finetuned):
    views = next(iter(begun(finetuned, STAGE).train_batches(0))).unlabelled
    for weak, strong in zip(views.weak.samples, views.strong.samples):
        assert weak.view.flip != strong.view.flip and torch.equal(strong.image, weak.image.flip(-1))
        assert weak.truth is None and strong.truth is None
        assert not np.array_equal(weak.prompts[0].points, strong.prompts[0].points)
    unmirrored = next(iter(begun(finetuned, STAGE, "augmentation.flip=false").train_batches(0))).unlabelled
    assert not any(s.view.flip for batch in (unmirrored.weak, unmirrored.strong) for s in batch.samples)


def test_whole_channels_of_the_strong_views_embedding_are_dropped(finetuned):
    trainer = begun(finetuned, STAGE, "consistency.feature_dropout=0.25")
    embeddings = torch.rand(4, 400, 3, 3) + 1
    found = trainer.perturbed(embeddings)
    kept = (found != 0).flatten(2)
    assert torch.equal(kept.all(2), kept.any(2))
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.05)
    torch.testing.assert_close(found[found != 0], embeddings[found != 0] / 0.75)
    views = next(iter(trainer.train_batches(0))).unlabelled
    assert torch.equal(trainer.target(views.weak), trainer.target(views.weak))  # nothing is dropped of the weak view


def test_the_pseudo_label_is_mirrored_with_the_view(finetuned, monkeypatch):
    trainer = begun(finetuned, STAGE, "consistency.feature_dropout=0", "consistency.confidence=0.5")
    mirror_exactly(trainer, monkeypatch)
    views = next(iter(trainer.train_batches(0))).unlabelled
    aligned = trainer.unlabelled_loss(views)[0].item()
    own = trainer.decode(views.strong)[1]
    expected = segmentation_loss(own, own > 0, trainer.stage.segmentation_loss).mean().item()
    assert aligned == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(type(views), "as_strong", lambda self, masks: masks)
    assert trainer.unlabelled_loss(views)[0].item() > aligned + 1e-2


def test_no_truth_of_an_unlabelled_image_is_read(finetuned, monkeypatch):
    trainer = finetuned.trainer(STAGE, "epochs=1", "consistency.confidence=0.6")
    trainer.initialize()
    forbid_hidden_truth(trainer, monkeypatch)
    trainer.run_training()
    assert len(trainer.unlabelled_keys) == 7
    assert 0 < trainer.run_log.history["confident"][0] <= 1 and "unlabelled_dice" not in trainer.run_log.history


@pytest.mark.parametrize("wrong", ["consistency.confidence=0.3", "consistency.feature_dropout=1"])
def test_a_threshold_that_says_both_is_refused(finetuned, wrong):
    with pytest.raises(PlansError, match=r"consistency\.confidence.*expected 0\.5 to 1"):
        finetuned.trainer(STAGE, wrong).initialize()


def test_a_training_that_is_stopped_and_continued_ends_with_the_same_bytes(finetuned):
    settings = ("epochs=2", "consistency.confidence=0.6")
    whole = weights_of_a_run(finetuned, STAGE, *settings)
    assert weights_of_a_run(finetuned, STAGE, *settings, stops_after=1) == whole
