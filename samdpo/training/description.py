"""What a trained fold says of itself: ``model.json``, and what it cost: ``cost.json``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samdpo.errors import ModelFolderError, PlansError
from samdpo.extensions import full_name
from samdpo.files import hash_of, read_json
from samdpo.planning.splits import Fold
from samdpo.schema import from_dict
from samdpo.training.run_log import peak_memory_gib

if TYPE_CHECKING:
    from samdpo.training.trainer import Trainer

_NEEDED = ("trainer", "stage", "mask_cut")
REMEDY = "Train it again, or copy the whole model folder once more."


@dataclass(frozen=True)
class FoldDescription:
    """The keys of ``model.json`` that are read; it has others, of newer versions too.

    Attributes:
        trainer: ``module:Class``.
        stage: of the plan.
        mask_cut: probability from which a pixel is foreground.
        custom_architecture: whether the trainer's class builds a network of its own.
        confidence_threshold: of each structure the confidence below which a person should look.
        clicks: of SAM-Med3D: (x, y, z), fractions of the volume.
        labelled_cases: that were trained on.
        data: hashes, see :func:`data_hashes`.
    """

    trainer: str
    stage: str
    mask_cut: float
    custom_architecture: bool = False
    confidence_threshold: dict[str, float] = field(default_factory=dict)
    clicks: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    labelled_cases: list[str] = field(default_factory=list)
    data: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.mask_cut <= 1:
            raise ValueError(f"'mask_cut' is {self.mask_cut}; expected a probability, 0 to 1")
        for name, place in self.clicks.items():
            if not all(0 <= of <= 1 for of in place):
                raise ValueError(f"'clicks.{name}' is {list(place)}; expected fractions of the volume, 0 to 1")


def read_description(file: Path) -> dict[str, Any]:
    """The content of a ``model.json``, of which every key that is read has been checked.

    Raises:
        ModelFolderError: the file is missing or damaged, or a key is missing or of a wrong kind.
    """
    content = read_json(file, error=ModelFolderError, remedy=REMEDY)
    lacking = [key for key in _NEEDED if isinstance(content, dict) and key not in content]
    if lacking:
        raise ModelFolderError(f"{file} has no {', '.join(map(repr, lacking))}. {REMEDY}")
    try:
        from_dict(FoldDescription, content, source=str(file), others_too=True)
    except PlansError as error:
        raise ModelFolderError(f"{error} {REMEDY}") from error
    return content


def describe_fold(trainer: Trainer, custom_architecture: bool) -> dict[str, Any]:
    """What prediction needs to know of this fold beyond the plans, and what a comparison of folds needs.

    Args:
        trainer: at the end of its training.
        custom_architecture: whether the trainer's class builds a network of its own.
    """
    return {
        "trainer": full_name(type(trainer)),
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
