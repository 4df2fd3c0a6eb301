"""Slices drawn for an epoch, and mirror images left out where left and right differ."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch

from samdpo.model.views import FLIPPED, IDENTITY, kept_views
from samdpo.plans import StagePlan
from samdpo.training.loading import EpochSlices

KEYS = [("case", index) for index in range(20)]


def test_every_epoch_draws_its_own_slices_and_always_the_same():
    slices = EpochSlices(StagePlan(slices_per_epoch=6, epochs=4, batch_size=4))
    drawn = [slices.of(KEYS, epoch) for epoch in range(4)]
    assert all(len(set(of)) == 6 and of == sorted(of) for of in drawn)
    assert drawn[0] != drawn[1] and drawn == [slices.of(KEYS, epoch) for epoch in range(4)]
    assert slices.seen(KEYS) == sorted({key for of in drawn for key in of})
    batches = list(slices.batches(KEYS, 0, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == [4, 2] and sorted(key for batch in batches for key in batch) == drawn[0]
    assert EpochSlices(StagePlan(slices_per_epoch=6, seed=1)).of(KEYS, 0) != drawn[0]


@pytest.mark.parametrize("most", [0, 20, 100])
def test_few_slices_are_all_seen(most: int):
    assert EpochSlices(StagePlan(slices_per_epoch=most)).of(KEYS, 3) == KEYS


def test_align_keeps_embeddings_of_what_it_sees_only(finetuned):
    trainer = finetuned.trainer("align_preferences", "slices_per_epoch=2", "epochs=1", "augmentation.flip=false")
    trainer.initialize()
    trainer.run_training()
    kept = [file.stem for file in trainer.features.store.folder.glob("*.npy")]
    assert len(kept) == 4 and all("identity" in name for name in kept), "2 labelled, 2 unlabelled"
    assert trainer.stopwatch.images["train"] == 2 + 2, "one step of 2 ranked slices and 2 of the anchor"


def test_finetune_draws_too_with_and_without_kept_activations(planned):
    for frozen in (0, 1):
        trainer = planned.trainer("finetune", "slices_per_epoch=1", "epochs=2", f"network.frozen_stages={frozen}")
        trainer.initialize()
        trainer.run_training()
        assert trainer.stopwatch.images["train"] == 2


def test_nothing_is_flipped_where_the_plan_says_so(planned):
    trainer = planned.trainer("finetune", "network.frozen_stages=1", "augmentation.flip=false")
    trainer.initialize()
    trainer.on_train_start()
    assert {s.view for epoch in range(5) for b in trainer.train_batches(epoch) for s in b.samples} == {IDENTITY}
    trainer.run_log.close()
    augmentation = trainer.stage.augmentation
    assert kept_views(dataclasses.replace(augmentation, flip=True)) == (IDENTITY, FLIPPED)


def test_the_towers_never_see_a_mirror_image_where_the_plan_says_so(planned, monkeypatch):
    from samdpo.prompting.frozen_features import SliceFeatures

    asked = []
    compute = SliceFeatures._compute

    def noted(self: SliceFeatures, slices: list) -> list:
        asked.extend(slices)
        return compute(self, slices)

    monkeypatch.setattr(SliceFeatures, "_compute", noted)
    shutil.rmtree(planned.preprocessed / "samdpoPlans_features")
    planned.trainer("finetune", "prompting.mirror=false")
    assert asked and not any(mirrored for _, _, mirrored in asked)
