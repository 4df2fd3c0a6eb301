"""Stage 2: learn from preferences over candidates of unlabelled images (paper Sec. 3.2, Eq. 5)."""

from __future__ import annotations

import glob
import logging
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from samdpo.align.prompt_alignment import align_prompts
from samdpo.align.recorded import annotate, judged_slices, ranked_by_people, recorded_annotator
from samdpo.align.reference import ReferenceModel
from samdpo.errors import TrainingError
from samdpo.model.views import View, draw_kept, kept_views
from samdpo.networks.published.loading import load_file
from samdpo.paths import model_folder, number_of, plans_option
from samdpo.plans import NetworkPlan, Plans
from samdpo.preferences.annotators import Ranking, VirtualAnnotator
from samdpo.preferences.candidates import make_candidates
from samdpo.preferences.losses import (
    best_candidate_target,
    disagreement_region,
    preference_loss,
    preference_reward,
    preference_weights,
    segmentation_loss,
    self_training_target,
)
from samdpo.preferences.metrics import preference_metrics
from samdpo.preferences.recorded import RecordedAnnotator
from samdpo.training import checkpoints, manifest
from samdpo.training.batches import Batch, Recipe
from samdpo.training.description import read_description
from samdpo.training.features import FeatureCache
from samdpo.training.finetune import batch_dice
from samdpo.training.fold_data import FoldData
from samdpo.training.slice_labels import SliceKey, known_part
from samdpo.training.trainer import Metrics, Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AlignRecipe:
    """What an :class:`AlignBatch` is made of: an item for each unlabelled and for each labelled slice."""

    unlabelled: list[Any]
    labelled: Recipe


@dataclass
class AlignBatch:
    """Unlabelled slices to rank candidates of, and labelled ones for the anchor."""

    unlabelled: Batch
    labelled: Batch | None

    def __len__(self) -> int:
        return len(self.unlabelled) + (len(self.labelled) if self.labelled else 0)

    def to(self, device: torch.device | str) -> AlignBatch:
        """The same tensors on another device, sent without waiting."""
        return AlignBatch(self.unlabelled.to(device), self.labelled.to(device) if self.labelled else None)


@dataclass(frozen=True)
class AlignMaker:
    """Makes batches of an :class:`AlignRecipe`; a plain recipe is of labelled slices alone."""

    unlabelled: Callable[[list[Any]], Any]
    labelled: Callable[[Recipe], Batch]

    def __call__(self, recipe: AlignRecipe | Recipe) -> AlignBatch | Batch:
        """Read what a recipe names."""
        if not isinstance(recipe, AlignRecipe):
            return self.labelled(recipe)
        labelled = self.labelled(recipe.labelled) if recipe.labelled else None
        return AlignBatch(self.unlabelled(recipe.unlabelled), labelled)


class AlignTrainer(Trainer):
    """Trains the mask decoder alone; encoder outputs and reference logits are computed once and kept.

    The plan's ``objective`` is ``preferences``, or one of two controls of equal cost on the same images:
    ``self_training`` (label = the finetuned model's own mask) and ``best_candidate`` (label = the best candidate).
    """

    objectives = ("preferences", "self_training", "best_candidate")
    people: RecordedAnnotator | None = None  # who ranked stored candidates, where the plan's annotator is not virtual

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
            manifest.check_fold(previous)
        if not manifest.is_finished(previous):
            log.warning("%s is being trained anew, or was begun anew and has not finished: this stage starts from the "
                        "model that was there before.", previous)
        load_file(self.network, self.reference_file)
        self.mask_cut = read_description(previous / "model.json")["mask_cut"]

    def starting_file(self) -> Path:
        """The previous stage's weights, or ``-pretrained_weights``."""
        return self.reference_file

    def configure_trainable(self) -> None:
        """Only the mask decoder trains (paper Sec. 3.2)."""
        self.network.requires_grad_(False)
        self.network.mask_decoder.requires_grad_(True)

    def initialize(self) -> None:
        """Also find the unlabelled slices; refuse to start without any."""
        super().initialize()
        self.unlabelled_keys = self.rankable(self.samples.keys(self.data.split.unlabelled))

    def rankable(self, keys: list[SliceKey]) -> list[SliceKey]:
        """The unlabelled slices this objective can use; the virtual annotator needs a truth to compare with."""
        number = number_of(self.plans.dataset_name)
        if not keys:
            raise TrainingError(
                f"Fold {self.data.fold} of {self.plans.dataset_name} has no unlabelled image, so there is nothing to "
                f"rank. Put images without labels into imagesUl/ of the raw dataset, or simulate scarce labels with: "
                f"samdpo_plan_and_preprocess -d {number} --labelled 0.1"
            )
        if self.asks_people or not self.asks_annotator:
            return keys
        judged = [k for k in keys if self.data.slices.has_label(k[0])]
        if not judged:
            raise TrainingError(
                f"None of the {len(keys)} unlabelled slices has a hidden truth, which the virtual annotator compares "
                f"candidates with. Simulate with: samdpo_plan_and_preprocess -d {number} --labelled 0.1, let people "
                f"rank them with: {annotate(self)}, or learn from the model's own masks with: "
                f"samdpo_train {number} align_self_training {self.data.fold}" + plans_option(self.plans.plans_name)
            )
        if len(judged) < len(keys):
            log.warning("%d unlabelled slices have no hidden truth; the virtual annotator leaves them out.",
                        len(keys) - len(judged))
        return judged

    @property
    def asks_people(self) -> bool:
        """Whether recorded judgements are learned from."""
        return self.stage.annotator.kind != "virtual" and self.asks_annotator

    @property
    def asks_annotator(self) -> bool:
        """Whether anybody ranks candidates; the other objectives learn from what the model itself says."""
        return self.stage.objective in ("preferences", "best_candidate")

    def on_train_start(self) -> None:
        """Find what people said; compute what the frozen encoder says, once; align the prompts."""
        if self.asks_people:
            self.people = recorded_annotator(self)
            self.unlabelled_keys = judged_slices(self)
        super().on_train_start()
        self.features = FeatureCache(self, n_stages=-1)
        self.fill_features()
        self.reference = ReferenceModel(self.reference_network(), self.plans)
        aligned = align_prompts(self)
        if aligned is not self.data:
            self.use_prompts(aligned)

    def fill_features(self) -> None:
        """Embeddings of every slice that an epoch sees or that is held back, where they are missing."""
        self.features.fill([*self.confidence_keys(), *self.held_back_keys], kept_views(self.stage.augmentation))

    def use_prompts(self, data: FoldData) -> None:
        """Train on the same fold under other prompts; a slice may show more structures or fewer."""
        self.data, self.samples = data, data.samples(self.stage.augmentation)
        train, held_back = self.do_split()
        self.train_keys, self.held_back_keys = self.samples.keys(train), self.samples.keys(held_back)
        self.unlabelled_keys = self.rankable(self.samples.keys(data.split.unlabelled))
        self.fill_features()

    def reference_network(self) -> torch.nn.Module:
        """The finetuned network; after a resume its weights are read again, since the policy has moved."""
        if self.current_epoch == 0:
            return self.network
        network = self.place(self.build_network_architecture(self.starting_plan()))
        load_file(network, self.reference_file)
        return network.requires_grad_(False).eval()

    def recipes(self, epoch: int) -> list[AlignRecipe]:
        """Shuffled unlabelled slices, with each batch some labelled ones for the anchor."""
        generator = self.generator(epoch)
        anchors = self._anchor_keys(epoch, generator)
        drawn = []
        for keys in self.epoch_slices.batches(self.unlabelled_keys, epoch, generator):
            labelled = [next(anchors) for _ in range(self.stage.labelled_per_step * self.processes.world)]
            unlabelled = self.draw_unlabelled(keys, generator)
            drawn.append(AlignRecipe(unlabelled, list(zip(labelled, self.draw_views(len(labelled), generator)))))
        return drawn

    def maker(self) -> AlignMaker:
        """Reads both parts of a recipe."""
        return AlignMaker(self.unlabelled_maker(), self.samples.batch)

    def _anchor_keys(self, epoch: int, generator: torch.Generator) -> Iterator[SliceKey]:
        keys = self.epoch_slices.of(self.train_keys, epoch)
        while True:
            yield from (keys[i] for i in torch.randperm(len(keys), generator=generator))

    def draw_views(self, count: int, generator: torch.Generator) -> list[View]:
        """The slice or its mirror image, whose embeddings are kept."""
        return draw_kept(count, self.stage.augmentation, generator)

    def draw_unlabelled(self, keys: list[SliceKey], generator: torch.Generator) -> list[Any]:
        """How one step sees unlabelled slices: what :meth:`unlabelled_maker` gives takes, one item a slice."""
        return list(zip(keys, self.draw_views(len(keys), generator)))

    def share(self, recipe: AlignRecipe) -> AlignRecipe:
        """This process's part of both parts of a recipe."""
        return AlignRecipe(self.processes.share(recipe.unlabelled), self.processes.share(recipe.labelled))

    def unlabelled_maker(self) -> Callable[[list[Any]], Any]:
        """What reads the unlabelled slices of one step: what :meth:`unlabelled_loss` takes; see :meth:`maker`."""
        return self.samples.batch

    def embeddings(self, batch: Batch) -> torch.Tensor:
        """Embeddings (B, C, h, w) of a batch, float32: kept ones, or computed for views that are not kept."""
        if not self.features.has(batch):
            return super().embeddings(batch)
        return self.features.get(batch).to(self.device).float()

    def decode(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Kept embeddings of a batch and the policy's logits (N, H, W)."""
        embeddings = self.embeddings(batch)
        return embeddings, self.network.decode(embeddings, batch.prompts.to(self.device))[0]

    def train_step(self, batch: AlignBatch) -> Metrics:
        """One decoder pass over unlabelled and labelled slices; loss on the unlabelled ones plus anchor."""
        loss, metrics = self.replicated(self.step_loss, batch)
        self.optimizer_step(loss)
        return {"loss": loss.detach(), **metrics}

    def step_loss(self, batch: AlignBatch) -> tuple[torch.Tensor, Metrics]:
        """Loss of a whole step, and what to log."""
        loss, metrics = self.unlabelled_loss(batch.unlabelled)
        if batch.labelled is not None:
            anchor_logits = self.decode(batch.labelled)[1]
            truth = batch.labelled.truth.to(self.device)
            counted = batch.labelled.counted
            anchors = segmentation_loss(anchor_logits, truth, self.stage.segmentation_loss, counted)
            anchor = anchors.sum() / self.processes.divisor(len(anchors))
            loss = loss + self.stage.loss.anchor_weight * anchor
            dice = batch_dice(anchor_logits.detach(), truth, counted)
            metrics |= {"loss/anchor": anchor.detach(), "train_dice": dice}
        return loss, metrics

    def unlabelled_loss(self, batch: Batch) -> tuple[torch.Tensor, Metrics]:
        """Loss on the unlabelled slices of a step, weighted as it is summed, and what to log."""
        embeddings, logits = self.decode(batch)
        reference = self.reference.logits(batch, embeddings)
        loss, metrics = self.objective_loss(batch, embeddings, logits, reference)
        if batch.truth is not None:  # simulated: what the annotator sees; logged, never learned from
            metrics["unlabelled_dice"] = batch_dice(logits.detach(), batch.truth.to(self.device), batch.counted)
        return loss, metrics

    def objective_loss(
        self, batch: Batch, embeddings: torch.Tensor, logits: torch.Tensor, reference: torch.Tensor
    ) -> tuple[torch.Tensor, Metrics]:
        """Loss on the unlabelled slices, by the plan's objective, and what to log."""
        settings = self.stage.segmentation_loss
        if self.stage.objective == "self_training":
            target = self_training_target(reference, self.mask_cut)
            return segmentation_loss(logits, target, settings).sum() / self.processes.divisor(len(logits)), {}
        candidates, ranking = self.ranked_candidates(batch, embeddings, logits)
        if self.stage.objective == "best_candidate":
            target = best_candidate_target(candidates, ranking)
            loss = segmentation_loss(logits, target, settings, batch.counted)
            # Where the annotator prefers nothing, no candidate is best.
            return (loss * ranking.valid).sum() / self.processes.divisor(ranking.valid.sum()), {}
        plan = self.stage.loss
        weights = preference_weights(candidates, ranking, plan)
        region = disagreement_region(candidates)
        reward = preference_reward(logits, reference, weights, plan.reduction, region)
        divisor = self.processes.divisor(ranking.valid.sum())
        if not ranking.valid.any():  # equal candidates carry no signal
            return logits.sum() * 0, {"loss/preference": np.nan}
        loss = preference_loss(reward, plan)[ranking.valid].sum() / divisor
        measured = preference_metrics(logits.detach(), reference, candidates, ranking, plan)
        metrics = {name: value[ranking.valid].mean() for name, value in measured.items()}
        return loss, {"loss/preference": loss.detach(), **metrics}

    def ranked_candidates(
        self, batch: Batch, embeddings: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, Ranking]:
        """Candidates (N, K, H, W) and the annotator's word on them: of the current policy, or stored ones."""
        if self.people is not None:
            return ranked_by_people(self, batch, embeddings, logits)
        return self.drawn_candidates(batch, embeddings, logits, batch.truth)

    def drawn_candidates(
        self, batch: Batch, embeddings: torch.Tensor, logits: torch.Tensor, truth: torch.Tensor
    ) -> tuple[torch.Tensor, Ranking]:
        """Candidates (N, K, H, W) of the current policy, and the virtual annotator's word on them."""
        # Salted by what is in the batch, so that a continued run draws what an uninterrupted one would.
        generator = self.generator(self.current_epoch, zlib.crc32(repr([s.key for s in batch.samples]).encode()))
        plan = self.stage.candidates
        hypotheses = self.reference.hypotheses(batch, embeddings) if plan.kind == "hypotheses" else None
        # Candidates agree on ignored pixels, which nobody can judge, so that these carry no signal.
        candidates = known_part(make_candidates(logits.detach(), plan, generator, hypotheses), batch.counted)
        ranking = VirtualAnnotator(self.stage.annotator, generator).rank(candidates, truth.to(logits.device))
        return candidates, ranking

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
