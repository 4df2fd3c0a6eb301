"""Mean teacher: agree with an average of your own past weights (Tarvainen & Valpola 2017, arXiv:1703.01780)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from samdpo.align.batches import AlignBatch
from samdpo.lab.baselines.consistency import ConsistencyTrainer
from samdpo.model.batches import Batch
from samdpo.training.trainer import Metrics


class MeanTeacherTrainer(ConsistencyTrainer):
    """The teacher, a moving average of what is trained, sees one view of an unlabelled slice, the student another; the
    student is pulled towards the teacher's probabilities.

    The teacher is what is validated, kept as ``checkpoint_final`` and predicts; the student is in the resumable
    checkpoint alone.
    """

    objectives = ("mean_teacher",)

    teacher: nn.Module  # mask decoders where the rest is frozen and the same for both, else whole networks
    student: nn.Module

    def initialize(self) -> None:
        """Also make the teacher: at first the student itself."""
        super().initialize()
        self.student = self.network if self.trains_encoder else self.network.mask_decoder
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()

    @contextmanager
    def teaching(self) -> Iterator[None]:
        """The teacher in the student's stead."""
        before = self.network if self.trains_encoder else self.network.mask_decoder
        self._put(self.teacher)
        try:
            yield
        finally:
            self._put(before)

    def _put(self, trained: nn.Module) -> None:
        if self.trains_encoder:
            self.network = trained
        else:
            self.network.mask_decoder = trained

    def target(self, weak: Batch) -> torch.Tensor:
        """The teacher's probabilities (N, H, W)."""
        with self.teaching():
            return super().target(weak)

    def consistency_loss(self, logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, Metrics]:
        """Mean squared difference of probabilities, with a weight that grows in the first part of the training."""
        plan = self.stage.consistency
        differences = (logits.float().sigmoid() - target).square()
        loss = differences.sum() / self.processes.divisor(differences.numel())
        weight = plan.weight * ramp_up(self.step, plan.ramp_up * self.num_epochs * self.steps_per_epoch)
        return weight * loss, {"loss/consistency": loss.detach(), "consistency_weight": weight}

    def train_step(self, batch: AlignBatch) -> Metrics:
        """A step of the student, which the teacher follows."""
        metrics = super().train_step(batch)
        follow(self.teacher, self.student, ema_decay(self.step, self.stage.consistency.ema_decay))
        return metrics

    def validation_step(self, batch: Batch) -> np.ndarray:
        """Dice of the teacher."""
        with self.teaching():
            return super().validation_step(batch)

    def on_epoch_end(self, epoch: int, outputs: list[Metrics], validation: list[np.ndarray]) -> None:
        """Also keep the teacher, where this is the best epoch."""
        with self.teaching():
            super().on_epoch_end(epoch, outputs, validation)

    def on_train_end(self) -> None:
        """The teacher becomes the network that is kept."""
        self._put(self.teacher)
        super().on_train_end()

    def save_checkpoint(self) -> None:
        """The teacher's weights as the network's, and the student's beside them."""
        with self.teaching():
            super().save_checkpoint()

    def state(self) -> dict[str, Any]:
        """Also the student's weights."""
        return {**super().state(), "student": self.student.state_dict()}

    def load_checkpoint(self) -> bool:
        """Teacher and student of the newest checkpoint; see :meth:`Trainer.load_checkpoint`."""
        with self.teaching():
            return super().load_checkpoint()

    def load_state(self, state: dict[str, Any]) -> None:
        """Also the student."""
        super().load_state(state)
        self.student.load_state_dict(state["student"])


def ramp_up(step: float, length: float) -> float:
    """exp(-5 (1 - t)^2) with t = step / length up to 1, then 1 (Laine & Aila 2017, arXiv:1610.02242, Sec. 2)."""
    t = min(step / length, 1.0) if length > 0 else 1.0
    return math.exp(-5 * (1 - t) ** 2)


def ema_decay(step: int, decay: float) -> float:
    """Share of the teacher that stays after ``step`` steps of the student (1 after the first).

    min(1 - 1 / (step + 1), decay): the plain mean of all weights so far until that remembers longer than the decay
    does, as in the authors' code. With few steps, ``decay`` alone would leave the teacher where it started.
    """
    return min(1 - 1 / (step + 1), decay)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """teacher <- decay * teacher + (1 - decay) * student, weight by weight; buffers are copied."""
    for average, new in zip(teacher.parameters(), student.parameters()):
        average.lerp_(new, 1 - decay)
    for average, new in zip(teacher.buffers(), student.buffers()):
        average.copy_(new)
