"""What the semi-supervised peers of ``align`` share: two views of an unlabelled image must give the same mask.

They start from the same finished stage as ``align``, train the same mask decoder on the same kept embeddings and
prompts, and have the same anchor on labelled images. Nobody ranks anything for them, and no truth of an unlabelled
image is read in training, so that what ``align`` gains over them is what the preferences say. With a rate for the
encoder, ``consistency.encoder_lr``, they train it too, as they were published: nothing is kept then, and views differ
in brightness and contrast as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from samdpo.align.batches import AlignBatch
from samdpo.align.trainer import AlignTrainer
from samdpo.model.batches import Batch, SliceSamples
from samdpo.model.views import View, draw_kept
from samdpo.networks.freezing import set_trainable
from samdpo.plans import AugmentationPlan
from samdpo.preprocessing.store import SliceKey
from samdpo.training.trainer import Metrics, Trainer


@dataclass
class TwoViews:
    """B unlabelled slices under two views each, with the same N prompts in the same order.

    Attributes:
        weak: the slice or its mirror image, with exact boxes and the stored points.
        strong: the slice or its mirror image, with jittered boxes and newly drawn points.
    """

    weak: Batch
    strong: Batch

    def __len__(self) -> int:
        return len(self.weak)

    def to(self, device: torch.device | str) -> TwoViews:
        """The same tensors on another device, sent without waiting."""
        return TwoViews(self.weak.to(device), self.strong.to(device))

    def as_strong(self, masks: torch.Tensor) -> torch.Tensor:
        """Masks or probabilities (N, H, W) of the weak views, mirrored to where the strong views show the same."""
        pairs = zip(self.weak.samples, self.strong.samples)
        mirrored = torch.tensor([weak.view.flip != strong.view.flip for weak, strong in pairs])
        rows = mirrored.to(masks.device)[self.weak.prompts.image_index.to(masks.device)]
        return torch.where(rows[:, None, None], masks.flip(-1), masks)


@dataclass(frozen=True)
class TwoViewsMaker:
    """Makes :class:`TwoViews` of slices and their two views, without their truth."""

    samples: SliceSamples
    augmentation: AugmentationPlan

    def __call__(self, recipe: list[tuple[SliceKey, View, View]]) -> TwoViews:
        """Read what a recipe names."""
        of = self.samples
        samples = SliceSamples(of.plans, of.slices, of.prompts, self.augmentation)
        weak, strong = (
            samples.collate([samples.sample(item[0], item[number], with_truth=False) for item in recipe])
            for number in (1, 2)
        )
        return TwoViews(weak, strong)


class ConsistencyTrainer(AlignTrainer):
    """Trains on pairs of views; a peer says what is the target and how to compare with it.

    A frozen encoder's output is kept of a slice and of its mirror image alone, so that views differ by a flip and by
    their prompts; where the encoder trains, the strong view's brightness and contrast are drawn too. Prompts stay where
    they are: the plan's ``prompt_corruption`` is not applied.
    """

    step = 0  # optimiser steps taken since the training began

    @property
    def trains_encoder(self) -> bool:
        """Whether what stage 1 trains is trained, an encoder among it, and not the mask decoder alone."""
        network = self.plans.network
        return self.stage.consistency.encoder_lr > 0 and network.frozen_stages != -1 and network.train != "decoder"

    def configure_trainable(self) -> None:
        """The mask decoder, or what stage 1 trains."""
        super().configure_trainable()
        if self.trains_encoder:
            set_trainable(self.network, self.plans.network.frozen_stages, self.plans.network.train)

    @property
    def encoder_rate(self) -> tuple[str, float]:
        """The peers' own."""
        return "consistency.encoder_lr", self.stage.consistency.encoder_lr

    def keep_features(self, keys: Sequence[SliceKey], views: Sequence[View]) -> None:
        """Nothing is worth keeping of an encoder that trains."""
        if not self.trains_encoder:
            super().keep_features(keys, views)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch; every epoch sees equally many slices."""
        return math.ceil(len(self.epoch_slices.of(self.unlabelled_keys, 0)) / self.epoch_slices.batch_size)

    def build_objective(self) -> None:
        """None: it is :meth:`consistency_loss`, of two views, and nobody is asked."""

    def on_epoch_start(self, epoch: int) -> None:
        """Count steps from the epoch, so that a continued training counts as an uninterrupted one."""
        super().on_epoch_start(epoch)
        self.step = epoch * self.steps_per_epoch

    def draw_unlabelled(self, keys: list[SliceKey], generator: torch.Generator) -> list[tuple[SliceKey, View, View]]:
        """Each slice with its weak and its strong view."""
        weak = self.draw_views(len(keys), generator)
        seeds = torch.randint(2**31, (len(keys),), generator=generator).tolist()
        strong = [replace(view, seed=seed) for view, seed in zip(self.strong_views(weak, generator), seeds)]
        if self.trains_encoder:  # the image may differ too: its pixels stay where they are
            plan = self.stage.consistency
            brightness, contrast = 2 * torch.rand(2, len(strong), generator=generator) - 1
            strong = [replace(view, brightness=plan.brightness * float(b), contrast=1 + plan.contrast * float(c))
                      for view, b, c in zip(strong, brightness, contrast)]
        return list(zip(keys, weak, strong))

    def unlabelled_maker(self) -> TwoViewsMaker:
        """Reads unlabelled slices under two views each, without their truth."""
        return TwoViewsMaker(self.samples, replace(self.stage.augmentation, prompt_corruption=0.0))

    def strong_views(self, weak: Sequence[View], generator: torch.Generator) -> list[View]:
        """Which of the kept views stand beside ``weak``: drawn anew. What makes prompts differ is added to them."""
        return draw_kept(len(weak), self.stage.augmentation, generator)

    def embeddings(self, batch: Batch) -> torch.Tensor:
        """Embeddings (B, C, h, w) of a batch, float32; a view's seed is of its prompts and moves no pixel."""
        if self.trains_encoder:
            return Trainer.embeddings(self, batch)
        samples = [replace(sample, view=replace(sample.view, seed=None)) for sample in batch.samples]
        return super().embeddings(replace(batch, samples=samples))

    def train_step(self, batch: AlignBatch) -> Metrics:
        """One step on unlabelled pairs and the labelled anchor."""
        metrics = super().train_step(batch)
        self.step += 1
        return metrics

    def unlabelled_loss(self, views: TwoViews) -> tuple[torch.Tensor, Metrics]:
        """Weighted loss between the strong view's logits and the weak view's probabilities, and what to log."""
        with torch.no_grad():
            target = views.as_strong(self.target(views.weak))
        embeddings = self.perturbed(self.embeddings(views.strong))
        logits = self.network.decode(embeddings, views.strong.prompts.to(self.device))[0]
        return self.consistency_loss(logits, target)

    def target(self, weak: Batch) -> torch.Tensor:
        """What the weak view is taken to show, (N, H, W) probabilities; without gradient."""
        return self.decode(weak)[1].sigmoid()

    def perturbed(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, C, h, w) of the strong view as the decoder gets them: as they are."""
        return embeddings

    def consistency_loss(self, logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, Metrics]:
        """Loss of logits (N, H, W) against probabilities (N, H, W) in the same frame, and what to log."""
        raise NotImplementedError
