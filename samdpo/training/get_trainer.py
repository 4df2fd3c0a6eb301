"""Train one stage of one fold: ``samdpo_train DATASET STAGE FOLD``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samdpo.errors import ConfigurationError, PlansError, TrainingError
from samdpo.extensions import find, find_named_in_file
from samdpo.paths import PLANS_NAME, dataset_name, model_folder, number_of, preprocessed_folder
from samdpo.plans import Plans, load_plans
from samdpo.training.distributed import join
from samdpo.training.fold_data import FoldData
from samdpo.training.trainer import Trainer


def get_trainer(
    dataset: int | str,
    stage: str,
    fold: int | str,
    trainer: str | type[Trainer] | None = None,
    plans_name: str = PLANS_NAME,
    device: str = "auto",
    overrides: Sequence[str] = (),
    pretrained_weights: Path | None = None,
    processes: int = 2,
    workers: int | None = None,
) -> Trainer:
    """A trainer, not yet initialised, on a fold whose prompts are made where missing.

    Args:
        dataset: id or name.
        stage: configuration of the plan (``finetune``, ``align``, or your own).
        fold: number or ``all``.
        trainer: a class, or see :func:`samdpo.extensions.find`; default is the plan's, which is not imported
            because the plan says so, see :func:`samdpo.extensions.find_named_in_file`.
        plans_name: file name of the plan without ``.json``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        overrides: ``key=value`` texts, see :func:`samdpo.plans.apply_overrides`.
        pretrained_weights: file of weights to start from, ours or as published for the backbone.
        processes: for comparing the validation cases with the truth.
        workers: processes that make training samples; see :func:`samdpo.training.loading.number_of_workers`.

    Raises:
        SamdpoError: with a sentence that says what to type first.
    """
    together = join(device)
    device = str(together.device)
    name = dataset_name(dataset)
    file = preprocessed_folder(name) / f"{plans_name}.json"
    if not file.is_file():
        raise TrainingError(
            f"{file} does not exist: {name} has no plan of this name. Type first: samdpo_plan_and_preprocess "
            f"-d {number_of(name)}"
        )
    if pretrained_weights is not None and not pretrained_weights.is_file():
        raise ConfigurationError(f"-pretrained_weights {pretrained_weights} is not a file.")
    # What is typed wins over what the stage has otherwise.
    name_typed = f"{trainer.__module__}:{trainer.__qualname__}" if isinstance(trainer, type) else trainer
    plans = load_plans(file).for_stage(stage).with_overrides(stage, list(overrides), name_typed)
    typed = trainer or _typed_trainer(overrides, plans, stage)
    if isinstance(typed, type):
        found = typed
    elif typed:
        found = find("trainer", typed)
    else:
        found = find_named_in_file("trainer", plans.stage(stage).trainer, file)
    _check_objective(found, plans, stage)
    found.check_prerequisites(plans, stage, fold)
    folder = model_folder(name, found.__name__, plans.plans_name, stage, writable=True)

    def load() -> FoldData:
        return FoldData.load(plans, fold, device, processes, with_prompts=found.uses_prompts, workers=workers)

    return found(together.main_first(load), stage, folder, device, pretrained_weights)


def _typed_trainer(overrides: Sequence[str], plans: Plans, stage: str) -> str | None:
    """The stage's trainer where ``--set trainer=…`` has typed it."""
    keys = {text.partition("=")[0].strip() for text in overrides}
    return plans.stage(stage).trainer if keys & {"trainer", f"configurations.{stage}.trainer"} else None


def _check_objective(trainer: type[Trainer], plans: Plans, stage: str) -> None:
    objective = plans.stage(stage).objective
    if objective not in trainer.objectives:
        raise PlansError(
            f"'configurations.{stage}.objective' of {plans.plans_name} is {objective!r}, which {trainer.__name__} does "
            f"not read: it learns by {' or '.join(map(repr, trainer.objectives))}. Write that, or name another trainer "
            "with -tr; a class of your own says in 'objectives' what it reads."
        )
