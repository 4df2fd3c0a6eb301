"""``consistency.encoder_lr``: the peers of ``align`` whose encoder trains on the unlabelled images too."""

from __future__ import annotations

import pytest
import torch
from two_views import begun, forbid_hidden_truth, weights_of_a_run

from samdpo.networks.weights import load_weights
from samdpo.paths import preprocessed_folder
from samdpo.training.checkpoints import FINAL

STAGES = ("mean_teacher_encoder", "fixmatch_encoder")


@pytest.mark.parametrize("stage", STAGES)
def test_the_encoder_is_trained_and_nothing_of_it_is_kept(finetuned, stage, monkeypatch):
    kept = preprocessed_folder(finetuned.trainer(stage).plans.dataset_name) / "samdpoPlans_embeddings"
    before_training = sorted(kept.rglob("*"))
    trainer = finetuned.trainer(stage, "epochs=1")
    trainer.initialize()
    forbid_hidden_truth(trainer, monkeypatch)
    trainer.run_training()
    assert sorted(kept.rglob("*")) == before_training
    before, after = (load_weights(f) for f in (finetuned.finetuned / "fold_0" / FINAL, trainer.fold_folder / FINAL))
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert {"image_encoder", "mask_decoder"} <= moved


@pytest.mark.parametrize("stage", STAGES)
def test_where_stage_1_trains_no_encoder_they_train_the_decoder_alone(finetuned, stage):
    trainer = begun(finetuned, stage, "network.frozen_stages=-1")
    assert not trainer.trains_encoder and hasattr(trainer, "features")
    assert not any(p.requires_grad for p in trainer.network.image_encoder.parameters())
    assert all(p.requires_grad for p in trainer.network.mask_decoder.parameters())


@pytest.mark.parametrize("stage", STAGES)
def test_views_of_one_slice_differ_in_brightness_and_show_the_same_place(finetuned, stage):
    trainer = begun(finetuned, stage)
    pairs = [pair for batch in trainer.train_batches(0)
             for pair in zip(batch.unlabelled.weak.samples, batch.unlabelled.strong.samples)]
    for weak, strong in pairs:
        assert (weak.view.brightness, weak.view.contrast) == (0, 1) and not strong.view.is_affine
        image = weak.image.flip(-1) if weak.view.flip != strong.view.flip else weak.image
        assert not torch.equal(image, strong.image)
        assert torch.corrcoef(torch.stack([image.flatten(), strong.image.flatten()]))[0, 1] > 0.9


def test_the_decoder_alone_is_trained_on_images_as_they_are(finetuned):
    trainer = begun(finetuned, "fixmatch")
    for batch in trainer.train_batches(0):
        assert all((s.view.brightness, s.view.contrast) == (0, 1) for s in batch.unlabelled.strong.samples)


def test_the_teacher_is_the_mean_of_whole_networks_and_is_what_is_kept(finetuned):
    trainer = begun(finetuned, "mean_teacher_encoder")
    start = [p.clone() for p in trainer.teacher.parameters()]
    batch = next(iter(trainer.train_batches(0)))
    trainer.train_step(batch)
    for old, new, found in zip(start, trainer.student.parameters(), trainer.teacher.parameters(), strict=True):
        torch.testing.assert_close(found, (old + new) / 2)
    assert trainer.network is trainer.student
    with trainer.teaching():
        assert trainer.network is trainer.teacher
    assert trainer.network is trainer.student
    target = trainer.target(batch.unlabelled.weak)
    with torch.no_grad():
        embeddings = trainer.teacher.encode_image(batch.unlabelled.weak.images).float()
        alone = trainer.teacher.decode(embeddings, batch.unlabelled.weak.prompts)[0].sigmoid()
    torch.testing.assert_close(target, alone, atol=0.02, rtol=0)  # in bfloat16 where the processor has it


@pytest.mark.parametrize("stage", STAGES)
def test_a_training_that_is_stopped_and_continued_ends_with_the_same_bytes(finetuned, stage):
    whole = weights_of_a_run(finetuned, stage, "epochs=2", "save_every=1")
    assert weights_of_a_run(finetuned, stage, "epochs=2", "save_every=1", stops_after=1) == whole
