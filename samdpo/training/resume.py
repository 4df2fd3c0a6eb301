"""Stop and continue: what of a trainer is in its resumable checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from samdpo.errors import TrainingError
from samdpo.networks.weights import load_into
from samdpo.training import checkpoints
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
        "processes": trainer.processes.world,
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
    """
    if (found := checkpoints.load_latest(trainer.fold_folder)) is None:
        return False
    weights, state = found
    check_settings(trainer, state["settings"])
    load_into(trainer.network, weights, "the resumable checkpoint")
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.scaler.load_state_dict(state.get("scaler", {}))
    trainer.current_epoch, trainer.best_metric = state["epoch"], state["best_metric"]
    trainer.mask_cut, trainer.budget.seconds = state["mask_cut"], state.get("computed_seconds", 0.0)
    trainer.run_log = RunLog(trainer.fold_folder, state["history"], writes=trainer.processes.is_main)
    if load_more is not None:
        load_more(state)
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
    changed = [k for k, v in trainer.settings().items() if before.get(k) != v and k not in _MAY_CHANGE]
    if changed:
        raise TrainingError(
            f"The checkpoint in {trainer.fold_folder} was made with other settings ({', '.join(changed)}). Continue "
            "with the settings it was started with, or start again without --c."
        )
