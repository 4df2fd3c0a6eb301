"""A stage that starts from the finished model of the one before and trains its mask decoder on kept embeddings."""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from samdpo.align.batches import AlignBatch, AlignMaker, AlignRecipe, endless
from samdpo.errors import TrainingError
from samdpo.model.batches import Batch, SliceSamples
from samdpo.model.description import check_fold, read_description
from samdpo.model.views import View, draw_kept, kept_views
from samdpo.networks.published.loading import load_file
from samdpo.paths import model_folder, number_of, plans_option
from samdpo.plans import NetworkPlan, Plans
from samdpo.preprocessing.store import SliceKey
from samdpo.training import checkpoints, manifest
from samdpo.training.finetune import batch_dice
from samdpo.training.kept_features import FeatureCache
from samdpo.training.trainer import Metrics, Trainer

log = logging.getLogger(__name__)


class NextStageTrainer(Trainer):
    """Base of the stages after the first: its network is that of the same fold, its encoder stays as it is."""

    features: FeatureCache  # outputs of the encoder for slices and their mirror images, computed once

    @classmethod
    def check_prerequisites(cls, plans: Plans, stage: str, fold: int | str) -> None:
        """The previous stage must be finished."""
        file = previous_fold_folder(plans, stage, fold) / checkpoints.FINAL
        if not file.is_file():
            previous, number = plans.stage(stage).previous_stage, number_of(plans.dataset_name)
            raise TrainingError(
                f"{file} does not exist: the stage {stage!r} starts from a finished {previous!r}. "
                f"Type first: samdpo_train {number} {previous} {fold}{plans_option(plans.plans_name)}"
            )

    def starting_plan(self) -> NetworkPlan:
        """Without published weights: those of the previous stage replace all of them."""
        return replace(self.plans.network, pretrained=False)

    def load_initial_weights(self) -> None:
        """The previous stage's final weights of the same fold, or ``-pretrained_weights``."""
        previous = previous_fold_folder(self.plans, self.stage_name, self.data.fold)
        self.reference_file = self.pretrained_weights or previous / checkpoints.FINAL
        if not self.pretrained_weights:
            check_fold(previous)
        if not manifest.is_finished(previous):
            log.warning("%s is being trained anew, or was begun anew and has not finished: this stage starts from the "
                        "model that was there before.", previous)
        load_file(self.network, self.reference_file)
        self.mask_cut = read_description(previous / "model.json")["mask_cut"]

    def starting_file(self) -> Path:
        """The previous stage's weights, or ``-pretrained_weights``."""
        return self.reference_file

    def starting_network(self) -> torch.nn.Module:
        """The network as it was at the start; after a resume its weights are read again, since it has moved."""
        if self.current_epoch == 0:
            return self.network
        network = self.place(self.build_network_architecture(self.starting_plan()))
        load_file(network, self.reference_file)
        return network.requires_grad_(False).eval()

    def configure_trainable(self) -> None:
        """Only the mask decoder trains (paper Sec. 3.2)."""
        self.network.requires_grad_(False)
        self.network.mask_decoder.requires_grad_(True)

    def keep_features(self, keys: Sequence[SliceKey], views: Sequence[View]) -> None:
        """Compute the embeddings of slices under some views where they are missing."""
        if not hasattr(self, "features"):
            self.features = self.feature_cache(n_stages=-1)
        self.features.fill(keys, views)

    def draw_views(self, count: int, generator: torch.Generator) -> list[View]:
        """The slice or its mirror image, whose embeddings are kept."""
        return draw_kept(count, self.stage.augmentation, generator)

    def embeddings(self, batch: Batch) -> torch.Tensor:
        """Embeddings (B, C, h, w) of a batch, float32: kept ones, or computed for views that are not kept."""
        if not self.features.has(batch):
            return super().embeddings(batch)
        return self.features.get(batch).float()

    def decode(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Kept embeddings of a batch and the logits (N, H, W) of the network that is trained."""
        embeddings = self.embeddings(batch)
        return embeddings, self.network.decode(embeddings, batch.prompts.to(self.device))[0]


class UnlabelledTrainer(NextStageTrainer):
    """Base of the stages that learn from unlabelled slices, beside labelled ones as an anchor."""

    unlabelled_keys: list[SliceKey]  # that an epoch is drawn from

    def unlabelled_cases(self) -> list[str]:
        """The fold's unlabelled cases, but for other images of the patients whose labelled cases are held back."""
        groups = self.data.groups
        held_back = {groups.get(case, case) for case in self.do_split()[1]}
        return [case for case in self.data.split.unlabelled if groups.get(case, case) not in held_back]

    def unlabelled_slices(self) -> list[SliceKey]:
        """The fold's unlabelled slices that this stage learns from, prompted."""
        located = SliceSamples(self.plans, self.data.slices, self.data.prompts.located, self.stage.augmentation)
        keys = self.drawn(self.rankable(located.keys(self.unlabelled_cases())))
        self.processes.once(lambda: self.data.judge(sorted({case for case, _ in keys}), self.device))
        return keys

    def drawn(self, keys: list[SliceKey]) -> list[SliceKey]:
        """Those that are looked at; all of them."""
        return keys

    def rankable(self, keys: list[SliceKey]) -> list[SliceKey]:
        """Those of the fold's unlabelled slices that this stage can use; it refuses to start without any."""
        if not keys and self.data.split.unlabelled and not self.unlabelled_cases():
            raise TrainingError(
                f"Every unlabelled image of fold {self.data.fold} of {self.plans.dataset_name} is of a patient whose "
                f"labelled case is held back ('held_back' is {self.stage.held_back:g}), so there is nothing to learn "
                "from. Type the same command with a smaller share, for example: --set held_back=0"
            )
        if not keys:
            raise TrainingError(
                f"Fold {self.data.fold} of {self.plans.dataset_name} has no unlabelled image, so there is nothing to "
                f"rank. Put images without labels into imagesUl/ of the raw dataset, or simulate scarce labels with: "
                f"samdpo_plan_and_preprocess -d {number_of(self.plans.dataset_name)} --labelled 0.1"
            )
        return keys

    def fill_features(self) -> None:
        """Embeddings of every slice that an epoch sees or that is held back, where they are missing."""
        self.keep_features([*self.confidence_keys(), *self.held_back_keys], kept_views(self.stage.augmentation))

    def recipes(self, epoch: int) -> list[AlignRecipe]:
        """Shuffled unlabelled slices, with each batch some labelled ones for the anchor."""
        generator = self.generator(epoch)
        anchors = endless(self.epoch_slices.of(self.train_keys, epoch), generator)
        drawn = []
        for keys in self.epoch_slices.batches(self.unlabelled_keys, epoch, generator):
            labelled = [next(anchors) for _ in range(self.stage.labelled_per_step * self.processes.world)]
            unlabelled = self.draw_unlabelled(keys, generator)
            drawn.append(AlignRecipe(unlabelled, list(zip(labelled, self.draw_views(len(labelled), generator)))))
        return drawn

    def draw_unlabelled(self, keys: list[SliceKey], generator: torch.Generator) -> list[Any]:
        """How one step sees unlabelled slices: what :meth:`unlabelled_maker` gives takes, one item a slice."""
        return list(zip(keys, self.draw_views(len(keys), generator)))

    def share(self, recipe: AlignRecipe) -> AlignRecipe:
        """This process's part of both parts of a recipe."""
        return AlignRecipe(self.processes.share(recipe.unlabelled), self.processes.share(recipe.labelled))

    def maker(self) -> AlignMaker:
        """Reads both parts of a recipe."""
        return AlignMaker(self.unlabelled_maker(), self.samples.batch)

    def unlabelled_maker(self) -> Callable[[list[Any]], Any]:
        """What reads the unlabelled slices of one step: what :meth:`unlabelled_loss` takes; see :meth:`maker`."""
        return self.samples.batch

    def train_step(self, batch: AlignBatch) -> Metrics:
        """One decoder pass over unlabelled and labelled slices; loss on the unlabelled ones plus anchor."""
        loss, metrics = self.replicated(self.step_loss, batch)
        self.optimizer_step(loss)
        return {"loss": loss.detach(), **metrics}

    def step_loss(self, batch: AlignBatch) -> tuple[torch.Tensor, Metrics]:
        """Loss of a whole step, and what to log."""
        loss, metrics = self.unlabelled_loss(batch.unlabelled)
        if batch.labelled is not None:
            logits, counted = self.decode(batch.labelled)[1], batch.labelled.counted
            truth = batch.labelled.truth.to(self.device)
            anchors = self.loss(logits, truth, counted)
            anchor = anchors.sum() / self.processes.divisor(len(anchors))
            loss = loss + self.stage.loss.anchor_weight * anchor
            metrics |= {"loss/anchor": anchor.detach(), "train_dice": batch_dice(logits.detach(), truth, counted)}
        return loss, metrics

    def unlabelled_loss(self, batch: Any) -> tuple[torch.Tensor, Metrics]:
        """Loss on the unlabelled slices of a step, weighted as it is summed, and what to log."""
        raise NotImplementedError

    def confidence_keys(self) -> list[SliceKey]:
        """The unlabelled slices too: the decoder has learned from them."""
        return [*self.epoch_slices.seen(self.train_keys), *self.epoch_slices.seen(self.unlabelled_keys)]


def previous_fold_folder(plans: Plans, stage: str, fold: int | str) -> Path:
    """Where the stage before ``stage`` lies: under the plan's trainer, or under the only other one there is."""
    previous = plans.stage(stage).previous_stage or "finetune"
    trainer = plans.stage(previous).trainer.rpartition(":")[2]
    folder = model_folder(plans.dataset_name, trainer, plans.plans_name, previous)
    if not folder.is_dir():
        found = sorted(folder.parent.glob(f"*__{glob.escape(plans.plans_name)}__{glob.escape(previous)}"))
        folder = found[0] if len(found) == 1 else folder
    return folder / f"fold_{fold}"
