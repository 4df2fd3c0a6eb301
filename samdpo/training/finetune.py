"""Stage 1: learn from the labelled part (paper Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from samdpo.model.batches import Batch
from samdpo.model.slice_labels import known_part
from samdpo.model.views import View, draw_kept, kept_views
from samdpo.networks.freezing import frozen_stages, set_trainable
from samdpo.networks.precision import autocast
from samdpo.training.kept_features import FeatureCache
from samdpo.training.trainer import Metrics, Trainer


class FinetuneTrainer(Trainer):
    """Trains encoder, prompt encoder and mask decoder with 20:1 focal : Dice (paper Sec. 4).

    Where the plan freezes leading stages of the encoder and wants their features kept, their output is computed once
    for every slice and its mirror image, and only the rest of the encoder runs in a step. Else they run in every step,
    without gradients, and views are drawn as ever.
    """

    features: FeatureCache | None = None

    def configure_trainable(self) -> None:
        """What the plan's ``network.train`` names, but nothing in its frozen encoder stages."""
        set_trainable(self.network, self.plans.network.frozen_stages, self.plans.network.train)

    def on_train_start(self) -> None:
        """Compute the boundary activations where part of the encoder is frozen."""
        super().on_train_start()
        frozen = frozen_stages(self.plans.network.frozen_stages, self.plans.network.train)
        if frozen != 0 and self.stage.keep_features:
            self.features = self.feature_cache(frozen)
            self.features.fill(self.epoch_slices.seen(self.train_keys), kept_views(self.stage.augmentation))

    def draw_views(self, count: int, generator: torch.Generator) -> list[View]:
        """Freshly drawn views; with kept activations, the slice or its mirror image."""
        if self.features is None:
            return super().draw_views(count, generator)
        return draw_kept(count, self.stage.augmentation, generator)

    def embeddings(self, batch: Batch) -> torch.Tensor:
        """Of a batch, float32; where leading stages are frozen, from their kept output if it is of these views."""
        if self.features is None or not self.features.has(batch):
            return super().embeddings(batch)
        with autocast(self.device, self.precision):
            return self.features.finish(self.features.get(batch)).float()

    def parts(self, batch: Batch) -> list[Batch]:
        """What runs at once: on a CPU one slice, whose activations are all the memory a step needs."""
        if self.device.type != "cpu":
            return [batch]
        return [self.samples.collate([sample]) for sample in batch.samples]

    def train_step(self, batch: Batch) -> Metrics:
        """Encode, decode all structures of a slice at once, step on the segmentation loss."""
        return self.step_of_parts(batch, self.part_loss, len(batch.prompts))

    def step_of_parts(self, batch: Any, part_loss: Callable[..., tuple[torch.Tensor, Metrics]], count: int) -> Metrics:
        """One step on the sum of the losses of a batch's parts; what else ``part_loss`` measures is averaged.

        Args:
            batch: of which the :meth:`parts` run one after another.
            part_loss: (part, divisor) -> the sum of the part's losses, divided by the divisor, and what to log.
            count: number of losses of the whole batch.
        """
        self.optimizer.zero_grad(set_to_none=True)
        # Summed gradients of the parts are those of the mean over the batches of all processes.
        divisor, parts = self.processes.divisor(count), self.parts(batch)
        losses, measured = [], []
        for number, part in enumerate(parts, 1):
            loss, metrics = self.replicated(part_loss, part, divisor, last=number == len(parts))
            if loss.requires_grad:  # not without any prompt
                self.backward(loss)
            losses.append(loss.detach())
            measured.append(metrics)
        self.apply_gradients()
        means = {name: torch.stack([m[name] for m in measured]).nanmean() for name in measured[0]}
        return {"loss": torch.stack(losses).sum(), **means}

    def part_loss(self, part: Batch, divisor: int | torch.Tensor) -> tuple[torch.Tensor, Metrics]:
        """Segmentation losses of a part's prompts, summed and divided."""
        logits, _ = self.network.decode(self.embeddings(part), part.prompts.to(self.device))
        truth = part.truth.to(self.device)
        loss = self.loss(logits, truth, part.counted).sum() / divisor
        return loss, {"train_dice": batch_dice(logits.detach(), truth, part.counted)}


def batch_dice(logits: torch.Tensor, truth: torch.Tensor, counted: torch.Tensor | None = None) -> torch.Tensor:
    """Mean Dice at probability 0.5 over (N, H, W) logits, on the pixels that count: a tensor without a dimension."""
    prediction, reference = known_part(logits > 0, counted).flatten(1).float(), truth.flatten(1).float()
    return (2 * (prediction * reference).sum(1) / (prediction.sum(1) + reference.sum(1)).clamp(min=1)).mean()
