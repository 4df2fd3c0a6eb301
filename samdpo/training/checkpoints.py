"""Checkpoints that resume exactly: weights as safetensors, the rest apart and loadable with ``weights_only``.

A resumable checkpoint is a folder ``checkpoint_latest/epoch_0005`` that appears by one rename, so a kill at any
moment leaves either the old or the new one. Final weights are ``checkpoint_final.safetensors``.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from samdpo.errors import ConfigurationError, ModelFolderError
from samdpo.files import temporary_beside
from samdpo.networks.weights import load_weights, save_weights

LATEST = "checkpoint_latest"
FINAL = "checkpoint_final.safetensors"
BEST = "checkpoint_best.safetensors"


def save_latest(fold: Path, epoch: int, weights: dict[str, torch.Tensor], state: dict[str, Any]) -> Path:
    """Write the checkpoint after ``epoch`` epochs and remove older ones.

    Args:
        fold: the fold's folder.
        epoch: epochs finished.
        weights: the network's state dict.
        state: optimiser, history and whatever else; tensors, numbers, texts, lists and dicts only.
    """
    parent = fold / LATEST
    target = parent / f"epoch_{epoch:04d}"
    temporary = temporary_beside(target)
    try:
        temporary.mkdir(parents=True)
        save_weights(weights, temporary / "weights.safetensors")
        torch.save(state, temporary / "state.pt")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its own writer.
        full = getattr(error, "errno", None) == errno.ENOSPC or "file write failed" in str(error)
        if not full:
            raise
        raise ConfigurationError(
            f"The disk is full while writing the checkpoint {target}. The previous checkpoint is untouched; free some "
            "space and continue with the same command and --c."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in parent.iterdir():
        if old != target:
            shutil.rmtree(old, ignore_errors=True)
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
        raise ModelFolderError(
            f"{newest / 'state.pt'} cannot be read ({type(error).__name__}). Remove {newest.parent} and start the "
            "training again without --c."
        ) from error
    return weights, state


def remove_latest(fold: Path) -> None:
    """Remove resumable checkpoints once the training is finished (as nnU-Net does)."""
    shutil.rmtree(fold / LATEST, ignore_errors=True)
