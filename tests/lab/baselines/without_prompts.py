"""What the tests of ``unet`` and ``self_prompt`` share: a stopped training, and a planned dataset of volumes."""

from __future__ import annotations

from pathlib import Path

from trained_models import Phantoms

from samdpo.training import checkpoints

SHORT = ("slices_per_epoch=4", "epochs=2")


def final_bytes(trainer) -> bytes:
    """The final weights."""
    return (trainer.fold_folder / checkpoints.FINAL).read_bytes()


def no_prompts_made(phantoms: Phantoms, folder: Path) -> bool:
    """Whether a training left no prompts, neither in the dataset nor with the model."""
    of_dataset = phantoms.preprocessed / "samdpoPlans_prompts"
    return not of_dataset.exists() and not (folder / "prompter").exists()
