"""The baseline ``unet``: a plain 2D U-Net, trained from scratch on the labelled slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from samdpo.lab.baselines.mask_samples import MaskBatch
from samdpo.lab.baselines.prompt_free import PromptFreeTrainer
from samdpo.model.slice_labels import SliceKey
from samdpo.training.finetune import batch_dice
from samdpo.training.loading import EpochSlices
from samdpo.training.trainer import Metrics


class UNetTrainer(PromptFreeTrainer):
    """U-Net (Ronneberger et al. 2015) with the loss and the epochs of nnU-Net (Isensee et al. 2021).

    An epoch is ``slices_per_epoch`` slices, however few there are: a network without published weights needs as many
    steps for six images as for a hundred.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.epoch_slices = RepeatedSlices(self.stage, self.processes.world)

    def configure_trainable(self) -> None:
        """Everything."""
        self.network.requires_grad_(True)

    def place(self, network: torch.nn.Module) -> torch.nn.Module:  # type: ignore[override]
        """Move the network to the device; instance normalisation is faster with channels first."""
        return network.to(self.device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with one rate."""
        return torch.optim.Adam(self.network.parameters(), lr=self.stage.lr)

    def train_step(self, batch: MaskBatch) -> Metrics:  # type: ignore[override]
        """One step on Dice and cross-entropy."""
        loss, metrics = self.replicated(self.step_loss, batch)
        self.optimizer_step(loss)
        return {"loss": loss.detach(), **metrics}

    def step_loss(self, batch: MaskBatch) -> tuple[torch.Tensor, Metrics]:
        """Loss of the batches of all processes, and what to log."""
        logits, truth = self.logits(batch), batch.truth.to(self.device)
        n = len(self.plans.structures)
        loss = dice_and_cross_entropy(logits, truth, n, batch.counted, self.processes.total)
        return loss, {"train_dice": batch_dice(logits.detach(), truth, batch.counted)}


class RepeatedSlices(EpochSlices):
    """``slices_per_epoch`` slices an epoch, again from the first in a new order where there are fewer."""

    def batches(
        self, keys: Sequence[SliceKey], epoch: int, generator: torch.Generator
    ) -> Iterator[list[SliceKey]]:
        """What ``epoch`` sees of ``keys``, shuffled, in batches; the last one may be smaller."""
        keys = self.of(keys, epoch)
        wanted = max(self.most, len(keys))
        order: list[int] = []
        while len(order) < wanted:
            order += torch.randperm(len(keys), generator=generator).tolist()
        for start in range(0, wanted, self.batch_size):
            yield [keys[i] for i in order[start : min(start + self.batch_size, wanted)]]


def dice_and_cross_entropy(
    logits: torch.Tensor, truth: torch.Tensor, n_structures: int, counted: torch.Tensor | None = None,
    total: Callable[[torch.Tensor], torch.Tensor] = lambda value: value,
) -> torch.Tensor:
    """nnU-Net's loss of regions (Isensee et al. 2021): binary cross-entropy plus 1 - soft Dice of the whole batch.

    Dice is of a structure's pixels in all slices of the batch together, so that a slice that does not show it is no
    case of its own.

    Args:
        logits: (B * L, H, W), before the sigmoid, slice by slice.
        truth: the same shape, bool.
        n_structures: L.
        counted: the same shape, bool, pixels that count; by default all.
        total: sum of a tensor over the processes that share the batch; by default there is one.

    Returns:
        scalar.
    """
    truth = truth.to(logits)
    counted = torch.ones_like(truth) if counted is None else counted.to(truth)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability, known = logits.sigmoid() * counted, truth * counted

    def of_structure(values: torch.Tensor) -> torch.Tensor:
        return total(values.unflatten(0, (-1, n_structures)).sum((0, 2, 3)))

    # 1 pixel more: defined where a structure is neither shown nor found.
    dice = (2 * of_structure(probability * known) + 1) / (of_structure(probability) + of_structure(known) + 1)
    return total((entropy * counted).sum()) / total(counted.sum()).clamp(min=1) + 1 - dice.mean()
