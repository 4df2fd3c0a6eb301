"""Stop and continue: what of a trainer is in its resumable checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samdpo.errors import ModelFolderError, TrainingError
from samdpo.files import content_hash, copy_file, hash_of
from samdpo.networks.weights import load_into
from samdpo.training import checkpoints, manifest
from samdpo.training.description import data_hashes
from samdpo.training.run_log import RunLog

if TYPE_CHECKING:
    from samdpo.training.trainer import Trainer

log = logging.getLogger(__name__)

_MAY_CHANGE = ("epochs", "minutes")  # how long to go on


def save_state(trainer: Trainer, **more: Any) -> None:
    """Write a checkpoint from which training goes on bit for bit (on CPU).

    Args:
        trainer: at the end of an epoch.
        more: state that a variant has beside the network's; tensors, numbers, texts, lists and dicts only.
    """
    state = {
        "epoch": trainer.current_epoch, "optimizer": trainer.optimizer.state_dict(),
        "history": trainer.run_log.history, "best_metric": trainer.best_metric, "mask_cut": trainer.mask_cut,
        "settings": trainer.settings(), "computed_seconds": trainer.budget.seconds,
        "scaler": trainer.scaler.state_dict(),
        "processes": trainer.processes.world, "begun": hash_of(trainer.begun),
        **more,
    }
    checkpoints.save_latest(trainer.fold_folder, trainer.current_epoch, trainer.network.state_dict(), state)


def load_state(trainer: Trainer, load_more: Callable[[dict[str, Any]], None] | None = None) -> bool:
    """Set a trainer to the newest checkpoint of its fold; False when there is none.

    Args:
        trainer: initialised.
        load_more: takes what :func:`save_state` was given as ``more``, with the rest of the state.

    Raises:
        TrainingError: the checkpoint was made with other settings.
        ModelFolderError: it is damaged.
    """
    if (found := checkpoints.load_latest(trainer.fold_folder)) is None:
        return False
    weights, state = found
    if trainer.begun is not None and state.get("begun", hash_of(trainer.begun)) != hash_of(trainer.begun):
        return False  # of a training before, which was about to be removed when the process ended
    try:
        check_settings(trainer, state["settings"])
        load_into(trainer.network, weights, "the resumable checkpoint")
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.scaler.load_state_dict(state.get("scaler", {}))
        trainer.current_epoch, trainer.best_metric = int(state["epoch"]), float(state["best_metric"])
        trainer.mask_cut, trainer.budget.seconds = state["mask_cut"], state.get("computed_seconds", 0.0)
        trainer.run_log = RunLog(trainer.fold_folder, dict(state["history"]), writes=trainer.processes.is_main)
        if load_more is not None:
            load_more(state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFolderError(
            f"The state in {trainer.fold_folder / checkpoints.LATEST} is none of this training's "
            f"({type(error).__name__}: {error}). Start the training again without --c."
        ) from error
    if "begun" not in state and trainer.processes.is_main:
        _take_over_best(trainer.fold_folder)
    before, now = state.get("processes", 1), trainer.processes.world
    if before != now:
        log.warning("%s was begun with %d processes and goes on with %d: a step sees %d slices instead of %d.",
                    trainer.fold_folder, before, now, now * trainer.stage.batch_size, before * trainer.stage.batch_size)
    log.info("Continuing %s after epoch %d.", trainer.fold_folder, trainer.current_epoch)
    return True


def check_settings(trainer: Trainer, before: Mapping[str, Any]) -> None:
    """Refuse to continue with other settings than those a checkpoint was made with.

    Raises:
        TrainingError: names the settings that differ.
    """
    if changed := changed_settings(trainer, before):
        raise TrainingError(
            f"The checkpoint in {trainer.fold_folder} was made with other settings ({', '.join(changed)}). Continue "
            "with the settings it was started with, or start again without --c."
        )


def changed_settings(trainer: Trainer, before: Mapping[str, Any]) -> list[str]:
    """Names of the settings that were others ``before``, but for how long to go on."""
    then, now = _as_json(before), _as_json(trainer.settings())
    return [name for name, value in now.items() if then.get(name) != value and name not in _MAY_CHANGE]


def changed_since(trainer: Trainer, before: Mapping[str, Any]) -> list[str]:
    """As :func:`changed_settings`, but for settings that an older version did not have, which are not compared."""
    now = _as_json(trainer.settings())
    return [name for name in now if name not in _MAY_CHANGE and name in before and _differs(before[name], now[name])]


def _differs(then: Any, now: Any) -> bool:
    if isinstance(then, dict) and isinstance(now, dict):
        return any(_differs(then[name], now[name]) for name in now if name in then)
    return then != now


def made_of(trainer: Trainer) -> manifest.MadeOf:
    """What an initialised trainer starts from; equal for two trainings that end with the same weights (on CPU).

    ``settings``; hashes ``start`` of the weights that it starts from and ``data`` of the cases; the key of its
    ``prompts``, which are those that it ends with.
    """
    if (known := trainer.begun) is None:
        data, file = trainer.data, trainer.starting_file()
        there = data.slices.summaries()
        contents = {c: there[c].hash for c in {*data.split.labelled, *data.split.unlabelled} if c in there}
        known = {"start": content_hash(file) if file else "", "data": hash_of(data_hashes(data.split), contents)}
    return {**known, "settings": _as_json(trainer.settings()), "prompts": getattr(trainer.data.prompts, "key", None)}


def check_begun(trainer: Trainer, before: manifest.MadeOf) -> None:
    """Refuse to go on with a training that was begun from other weights; warn where its data has changed since.

    Args:
        trainer: initialised.
        before: what the training was begun with.

    Raises:
        TrainingError: the weights that it starts from are others now.
    """
    now = made_of(trainer)
    if before.get("start", now["start"]) != now["start"]:
        raise TrainingError(
            f"The training in {trainer.fold_folder} was begun from other weights than {trainer.starting_file()} holds "
            "now: they were trained or replaced since. Put those back, or start again without --c."
        )
    if before.get("data", now["data"]) != now["data"]:
        log.warning("Cases of fold %s, or their images, have changed since the training in %s was begun. It goes on "
                    "with them as they are now; train anew without --c for a result that can be repeated.",
                    trainer.data.fold, trainer.fold_folder)


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(settings)))


def _take_over_best(fold: Path) -> None:
    """An older version kept the best epoch of a training that is not finished beside the final weights."""
    best = fold / checkpoints.BEST
    if best.is_file() and not (fold / checkpoints.FINAL).is_file():
        copy_file(best, fold / checkpoints.LATEST / checkpoints.BEST)
