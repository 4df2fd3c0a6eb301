"""Numbers that are none stop a training before they are averaged, chosen or saved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from samdpo.errors import TrainingError
from samdpo.training import checkpoints

if TYPE_CHECKING:
    from samdpo.training.trainer import Trainer


def check_losses(trainer: Trainer, epoch: int, outputs: Sequence[Mapping[str, float]]) -> None:
    """Stop where the loss of a step is not a number.

    With float16 a step may overflow: its gradients are then left out and the scale is halved, so that only an epoch
    without any finite loss stops the training.

    Args:
        trainer: for what to type.
        epoch: that has just ended, from 0.
        outputs: what each step of all processes logged, process after process.

    Raises:
        TrainingError: names epoch, step and the parts of the loss.
    """
    wrong = [i for i, output in enumerate(outputs) if not math.isfinite(output.get("loss", 0.0))]
    if not wrong or (trainer.scaler.is_enabled() and len(wrong) < len(outputs)):
        return
    steps = max(1, len(outputs) // trainer.processes.world)
    parts = ", ".join(f"{name} {value:g}" for name, value in outputs[wrong[0]].items() if "loss" in name)
    raise TrainingError(
        f"The loss of step {wrong[0] % steps + 1} of epoch {epoch + 1} is not a number ({parts}), nor are the weights "
        f"since. {_remedy(trainer)}"
    )


def check_parameters(trainer: Trainer, epoch: int) -> None:
    """Stop where a weight is not a number: a gradient was not, though the loss was.

    Raises:
        TrainingError: names the epoch and the weight.
    """
    trained = (item for item in trainer.network.named_parameters() if item[1].requires_grad)
    for name, tensor in (*trained, *trainer.network.named_buffers()):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"In epoch {epoch + 1} the weight {name!r} has become infinite or no number, though no loss has. "
                f"{_remedy(trainer)}"
            )


def _remedy(trainer: Trainer) -> str:
    kept = sorted((trainer.fold_folder / checkpoints.LATEST).glob("epoch_*"))
    last = f"The checkpoint after epoch {int(kept[-1].name[6:])}, from before, is kept. " if kept else ""
    precision = "" if trainer.precision == "fp32" else " or precision=fp32"
    return (
        f"{last}Train anew with a lower rate{precision}, for example: --set lr={trainer.stage.lr / 10:g} "
        f"encoder_lr={trainer.stage.encoder_lr / 10:g}{' precision=fp32' if precision else ''}. If that does not help, "
        "look for images or labels with infinite values: samdpo_plan_and_preprocess --verify_dataset_integrity"
    )
