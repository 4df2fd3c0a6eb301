"""Checkpoints that resume exactly: weights as safetensors, the rest apart and loadable with ``weights_only``.

A resumable checkpoint is a folder ``checkpoint_latest/epoch_0005`` that appears by one rename, so a kill at any
moment leaves either the old or the new one. Final weights are ``checkpoint_final.safetensors``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from samdpo.errors import ModelFolderError
from samdpo.files import atomic_folder, remove_folder
from samdpo.model.description import BEST, FINAL, LATEST
from samdpo.networks.weights import load_weights, save_weights

__all__ = ["BEST", "FINAL", "LATEST", "changed_settings", "load_latest", "remove_latest", "save_latest"]

_ANEW = "Start the training again without --c."
_MAY_CHANGE = ("epochs", "minutes", "inference_batch_size")  # how long to go on, and how much at once beside steps
_WITH_LENGTH = ("lr_halving_epochs",)  # and what follows the number of epochs


def save_latest(fold: Path, epoch: int, weights: dict[str, torch.Tensor], state: dict[str, Any]) -> Path:
    """Write the checkpoint after ``epoch`` epochs and remove older ones.

    Args:
        fold: the fold's folder.
        epoch: epochs finished.
        weights: the network's state dict.
        state: optimiser, history and whatever else; tensors, numbers, texts, lists and dicts only.
    """
    target = fold / LATEST / f"epoch_{epoch:04d}"
    with atomic_folder(target, remedy="continue with the same command and --c") as folder:
        save_weights(weights, folder / "weights.safetensors")
        torch.save(state, folder / "state.pt")
    for old in target.parent.glob("epoch_*"):
        if old != target:
            remove_folder(old)
    return target


def load_latest(fold: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Weights and state of the newest resumable checkpoint, or None.

    Raises:
        ModelFolderError: a checkpoint is there but cannot be read.
    """
    folders = sorted((fold / LATEST).glob("epoch_*"))
    if not folders:
        return None
    newest = folders[-1]
    weights = load_weights(newest / "weights.safetensors")
    try:
        state = torch.load(newest / "state.pt", map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelFolderError(f"{newest / 'state.pt'} cannot be read ({type(error).__name__}). {_ANEW}") from error
    if not isinstance(state, Mapping):
        raise ModelFolderError(f"{newest / 'state.pt'} holds a {type(state).__name__} and no state of a training. "
                               f"{_ANEW}")
    return weights, state


def remove_latest(fold: Path) -> None:
    """Remove resumable checkpoints once the training is finished (as nnU-Net does)."""
    remove_folder(fold / LATEST)


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any], every: bool = True) -> list[str]:
    """Names of the settings that were others before, but for how long to go on and how much at once beside steps.

    Args:
        before: as a file keeps them.
        now: likewise.
        every: False leaves out those that an older version did not have, and parts of them, and what follows from
            others: of a training that is finished.
    """
    follows = not every or before.get("epochs") != now.get("epochs")
    may_change = _MAY_CHANGE + _WITH_LENGTH if follows else _MAY_CHANGE
    compared = [name for name in now if name not in may_change]
    if every:
        return [name for name in compared if before.get(name) != now[name]]
    return [name for name in compared if name in before and _differs(before[name], now[name])]


def _differs(then: Any, now: Any) -> bool:
    if isinstance(then, dict) and isinstance(now, dict):
        return any(_differs(then[name], now[name]) for name in now if name in then)
    return then != now
