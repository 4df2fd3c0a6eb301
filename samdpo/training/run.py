"""Train one stage of one fold: ``samdpo_train DATASET STAGE FOLD``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from samdpo.errors import ConfigurationError, PlansError, TrainingError
from samdpo.extensions import find, find_named_in_file
from samdpo.files import locked, remove_abandoned
from samdpo.paths import PLANS_NAME, dataset_name, model_folder, number_of, plans_option, preprocessed_folder
from samdpo.plans import Plans, load_plans
from samdpo.prompting.prompt_store import PromptStore
from samdpo.training import checkpoints, manifest
from samdpo.training.distributed import join
from samdpo.training.fold_data import FoldData, own_prompts
from samdpo.training.resume import changed_since, check_begun, made_of
from samdpo.training.trainer import Trainer

log = logging.getLogger(__name__)


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
    plans = load_plans(file).for_stage(stage).with_overrides(stage, list(overrides))
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


def train(
    trainer: Trainer, resume: bool = False, only_validate: bool = False, save_probabilities: bool = False
) -> None:
    """Train (or continue, or only validate) and predict the fold's validation cases.

    Raises:
        ConfigurationError: another process trains or validates this fold.
        TrainingError: there is nothing to validate, or not what these settings make.
    """
    fold, processes = trainer.fold_folder, trainer.processes
    final = fold / checkpoints.FINAL
    with ExitStack() as held:
        finished = processes.once(lambda: _own(fold, held))
        if only_validate:
            if not final.is_file():
                raise TrainingError(f"--val: {final} does not exist; this fold is not trained yet. Train it without "
                                    "--val.")
            if not finished:
                raise TrainingError(
                    f"--val: a training of {fold} was begun anew and has not finished. Go on with it with --c instead "
                    f"of --val; to stay with the model of before, remove {fold / checkpoints.LATEST}."
                )
        elif resume and finished:
            _check_settings_of_finished(trainer)
            log.info("%s is finished already; nothing to continue. Train it anew by leaving out --c.", fold)
        else:
            _train(trainer, resume)
        # Nothing is computed together any more, and the others need not wait for the predictions.
        processes.leave()
        if processes.is_main:
            _check_own_prompts(trainer)
            trainer.perform_actual_validation(save_probabilities)
            log.info("The model is in %s\n%s", trainer.folder, next_step(trainer))


def _own(fold: Path, held: ExitStack) -> bool:
    """Lock a fold until ``held`` is left, and clear up behind runs that were killed; whether the fold is finished."""
    # Beside the fold, not in it: whoever links or copies a fold does not take the lock along.
    held.enter_context(locked(fold.parent / f".{fold.name}.lock", busy=(
        f"Another process trains or validates {fold} at this moment. Wait until it has ended, or end it; two at once "
        "would mix their files."
    )))
    remove_abandoned(fold.parent)
    remove_abandoned(fold, recursive=True)
    manifest.complete(fold)
    return manifest.is_finished(fold)


def _train(trainer: Trainer, resume: bool) -> None:
    fold, is_main = trainer.fold_folder, trainer.processes.is_main
    trainer.initialize()
    if resume and (begun := trainer.processes.once(lambda: manifest.begun(fold))) is not None:
        check_begun(trainer, begun)
        trainer.begun = begun
    if not (resume and trainer.load_checkpoint()):
        if resume:
            log.info("There is no checkpoint to continue from; starting at the beginning.")
        trainer.begun = None
        trainer.begun = made_of(trainer)
        trainer.processes.meet()  # nobody looks for a checkpoint any more
        if is_main:
            manifest.begin(fold, trainer.begun)
    with trainer.loader:  # its workers end with the training, however that ends
        trainer.run_training()


def _check_settings_of_finished(trainer: Trainer) -> None:
    """A finished fold is the end of another training than the one that ``--c`` asks for where settings differ."""
    before = manifest.settings_of(trainer.fold_folder)
    if before is not None and (changed := changed_since(trainer, before)):
        raise TrainingError(
            f"{trainer.fold_folder} is finished, and was trained with other settings ({', '.join(changed)}). Train it "
            "anew with these by leaving out --c, or name the settings it was trained with."
        )


def _check_own_prompts(trainer: Trainer) -> None:
    """A fold's own prompts may be those of a training that was begun anew and given up."""
    own, known = own_prompts(trainer.fold_folder), manifest.prompts_of(trainer.fold_folder)
    if known is not None and own.is_dir() and any(one.key != known for one in PromptStore(own).summaries().values()):
        raise TrainingError(
            f"{own} holds prompts of another training than the one whose weights are there, so they cannot be "
            "validated together. Train the fold anew."
        )


def next_step(trainer: Trainer) -> str:
    """What a user would type next."""
    number, fold = number_of(trainer.plans.dataset_name), trainer.data.fold
    following = [
        name for name, stage in trainer.plans.configurations.items() if stage.previous_stage == trainer.stage_name
    ]
    lines, option = ["Next:"], plans_option(trainer.plans.plans_name)
    if following and trainer.data.split.unlabelled:
        command = f"samdpo_train {number} {following[0]} {fold}{option}"
        lines.append(f"  {command}      learn from preferences on unlabelled images")
    lines.append(f"  {trainer.prediction_command()}")
    return "\n".join(lines)
