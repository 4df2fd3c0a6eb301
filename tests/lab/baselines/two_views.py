"""What the tests of trainers that compare two views of an image share."""

from __future__ import annotations

import pytest

from samdpo.align import rounds
from samdpo.networks.prompt_batch import PromptBatch
from samdpo.preprocessing.store import SliceStore
from samdpo.training.checkpoints import FINAL, LATEST


def begun(phantoms, stage: str, *overrides: str):
    """A trainer in its first epoch, before its first step."""
    trainer = phantoms.trainer(stage, *overrides)
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_epoch_start(0)
    trainer.run_log.close()
    return trainer


def mirror_exactly(trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that says of each pixel what its brightness is, whatever the prompt: mirrored if its image is."""

    def decode(embeddings, batch: PromptBatch):
        logits = (20 * (embeddings.mean(1) - 0.5))[batch.image_index]
        return logits.requires_grad_(), logits.flatten(1).mean(1)

    monkeypatch.setattr(trainer, "embeddings", lambda batch: batch.images)
    monkeypatch.setattr(trainer.network, "decode", decode)


def forbid_hidden_truth(trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the label of a case that is not labelled fails; the prompts' figure, which shows it, is left out."""
    allowed, read = set(trainer.data.split.labelled), SliceStore.label

    def label(self, case: str, index: int):
        assert case in allowed, f"the truth of {case} was read"
        return read(self, case, index)

    monkeypatch.setattr(SliceStore, "label", label)
    monkeypatch.setattr(rounds, "draw_places", lambda *_: None)


def weights_of_a_run(phantoms, stage: str, *overrides: str, stops_after: int | None = None) -> bytes:
    """The final weights' file of a training, stopped in the middle of an epoch and continued where one is given."""
    if stops_after is not None:
        trainer = phantoms.trainer(stage, *overrides)
        trainer.initialize()
        step, seen = trainer.train_step, []

        def stopping(batch):
            seen.append(trainer.current_epoch)
            if seen.count(stops_after) > 1:
                raise KeyboardInterrupt
            return step(batch)

        trainer.train_step = stopping
        with pytest.raises(KeyboardInterrupt):
            trainer.run_training()
        trainer.run_log.close()
        assert (trainer.fold_folder / LATEST / f"epoch_{stops_after:04d}").is_dir()
    trainer = phantoms.trainer(stage, *overrides)
    trainer.initialize()
    assert trainer.load_checkpoint() == (stops_after is not None)
    trainer.run_training()
    return (trainer.fold_folder / FINAL).read_bytes()
