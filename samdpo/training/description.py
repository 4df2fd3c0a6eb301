"""What a trained fold says of itself: ``model.json``, and what it cost: ``cost.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from samdpo.files import hash_of
from samdpo.planning.splits import Fold
from samdpo.training.run_log import peak_memory_gib

if TYPE_CHECKING:
    from samdpo.training.trainer import Trainer


def describe_fold(trainer: Trainer, custom_architecture: bool) -> dict[str, Any]:
    """What prediction needs to know of this fold beyond the plans, and what a comparison of folds needs.

    Args:
        trainer: at the end of its training.
        custom_architecture: whether the trainer's class builds a network of its own.
    """
    return {
        "trainer": f"{type(trainer).__module__}:{type(trainer).__qualname__}",
        "custom_architecture": custom_architecture,
        "stage": trainer.stage_name,
        "mask_cut": trainer.mask_cut,
        "confidence_threshold": trainer.measure_confidence(),
        "seed": trainer.stage.seed,
        "epochs": trainer.current_epoch,
        "held_back_dice": trainer.best_metric if trainer.held_back_keys else None,
        "labelled_cases": sorted({case for case, _ in trainer.train_keys}),
        "data": data_hashes(trainer.data.split),
    }


def cost_of(trainer: Trainer) -> dict[str, Any]:
    """What a fold's training cost, for ``cost.json``: unlike ``model.json`` it is never the same twice."""
    watch = trainer.stopwatch
    return {
        "train_minutes": round(trainer.budget.seconds / 60, 3),
        "minutes_allowed": trainer.budget.minutes,
        "seconds_per_image": {step: seconds / max(watch.images[step], 1) for step, seconds in watch.seconds.items()},
        "images": watch.images,
        "peak_memory_gib": round(peak_memory_gib(trainer.device), 3),
    }


def data_hashes(split: Fold) -> dict[str, str]:
    """A hash of each part of a fold: two trainings with equal hashes had the same cases."""
    parts = {"train": split.train, "labelled": split.labelled, "unlabelled": split.unlabelled, "val": split.val}
    return {name: hash_of(sorted(cases)) for name, cases in parts.items()}
