"""Which candidate set belongs to a model and its plan, and where it lies."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from samdpo.files import content_hash, hash_of
from samdpo.preferences.records import CandidateSet

if TYPE_CHECKING:
    from samdpo.align.trainer import AlignTrainer

_VERSION = 1  # raise when the code makes other candidates from the same settings


def describe_set(trainer: AlignTrainer) -> CandidateSet:
    """The candidate set that a trainer would make, and the only one whose judgements it may learn from.

    Its id is a hash of the weights and of what shapes candidates and prompts; settings of the loss, epochs and seed
    are free to change. The candidates lie in the fold of the model that made them: it is there before any stage that
    learns from them, several such stages may share them, and a set never overwrites another.

    Args:
        trainer: after ``initialize``.
    """
    plans, data, stage = trainer.plans, trainer.data, trainer.stage
    model = content_hash(Path(trainer.reference_file))
    plan = hash_of(_VERSION, stage.candidates, data.prompts.key, plans.structures, plans.preprocessing, plans.network)
    number = hash_of(plans.dataset_name, str(data.fold), model, plan)
    return CandidateSet(
        id=number, dataset=plans.dataset_name, fold=str(data.fold), stage=trainer.stage_name,
        plans_name=plans.plans_name, model_hash=model, plan_hash=plan, created=datetime.now(timezone.utc),
        folder=str(Path(trainer.reference_file).absolute().parent / "candidates" / number),
    )
