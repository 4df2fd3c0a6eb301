"""What a network may learn from unlabelled slices, by the name that a plan's ``objective`` gives it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator

import numpy as np
from torch import Tensor

from samdpo.align.proposer import EncodedBatch
from samdpo.extensions import names, register
from samdpo.plans import StagePlan
from samdpo.preferences.annotators import Ranking
from samdpo.preferences.losses import (
    best_candidate_target,
    disagreement_region,
    preference_loss,
    preference_metrics,
    preference_reward,
    preference_weights,
    self_training_target,
)
from samdpo.training.trainer import Metrics, SegmentationLoss


class Objective(ABC):
    """A loss on unlabelled slices.

    Args:
        stage: settings, of which ``loss`` is what a plan says about it.
        mask_cut: probability above which the finetuned model takes a pixel for the structure.
        segmentation_loss: the trainer's loss against a mask, whatever ``build_loss`` makes it: logits (N, H, W), truth
            (N, H, W) bool and pixels that count (N, H, W) bool or None -> (N,); pixels that do not give no gradient.
        divisor: number of own losses -> by what their sum is divided, so that it is a mean over all processes. Every
            process has to ask equally often.
    """

    asks = False  # whether somebody is asked which proposals are better
    trains = True  # whether the network learns at all

    def __init__(
        self, stage: StagePlan, mask_cut: float, segmentation_loss: SegmentationLoss,
        divisor: Callable[[int | Tensor], int | Tensor],
    ) -> None:
        self.stage, self.mask_cut = stage, mask_cut
        self.segmentation_loss, self.divisor = segmentation_loss, divisor

    @abstractmethod
    def loss(self, slices: EncodedBatch, ask: Callable[[], tuple[Tensor, Ranking]]) -> tuple[Tensor, Metrics]:
        """Loss of a step as it is summed with others, and what to log.

        Args:
            slices: the batch with the logits (N, H, W) that are trained, and the reference model.
            ask: proposals (N, K, H, W) bool of these slices, equal on ignored pixels, and what was said about them.
        """


def register_objective(name: str) -> Callable[[type[Objective]], type[Objective]]:
    """Decorate a subclass of :class:`Objective` of one's own to make it an ``objective`` of plans.

    Raises:
        ValueError: the name is taken.
    """
    return register("objective", name)


class ObjectiveNames(Collection[str]):
    """What a plan's ``objective`` may be at the moment."""

    def __contains__(self, name: object) -> bool:
        return name in names("objective")

    def __iter__(self) -> Iterator[str]:
        return iter(names("objective"))

    def __len__(self) -> int:
        return len(names("objective"))


class Preferences(Objective):
    """Eq. 5 of the paper and its variants: the better proposals are to become likelier than the worse ones."""

    asks = True

    def loss(self, slices: EncodedBatch, ask: Callable[[], tuple[Tensor, Ranking]]) -> tuple[Tensor, Metrics]:
        """By the plan's ``loss``; 0 where nothing is preferred to anything."""
        logits, reference, plan = slices.logits, slices.reference_logits, self.stage.loss
        proposals, ranking = ask()
        weights = preference_weights(proposals, ranking, plan)
        reward = preference_reward(logits, reference, weights, plan.reduction, disagreement_region(proposals))
        divisor = self.divisor(ranking.valid.sum())
        if not ranking.valid.any():  # equal proposals carry no signal
            return logits.sum() * 0, {"loss/preference": np.nan}
        loss = preference_loss(reward, plan)[ranking.valid].sum() / divisor
        measured = preference_metrics(logits.detach(), reference, proposals, ranking, plan)
        metrics = {name: value[ranking.valid].mean() for name, value in measured.items()}
        return loss, {"loss/preference": loss.detach(), **metrics}


class Chosen(Objective):
    """The mask that somebody accepted, ordered first or meant by a box, as label, weighted by how sure that is."""

    asks = True

    def loss(self, slices: EncodedBatch, ask: Callable[[], tuple[Tensor, Ranking]]) -> tuple[Tensor, Metrics]:
        """Segmentation loss times the weight of each mask; prompts about which nothing was said have the weight 0."""
        masks, ranking = ask()
        weights = ranking.score[:, 0]
        losses = self.segmentation_loss(slices.logits, masks[:, 0], slices.batch.counted)
        said = weights > 0
        metrics = {"loss/chosen": losses.detach()[said].mean() if said.any() else np.nan}
        return (losses * weights).sum() / self.divisor(said.sum()), metrics


class JudgeOnly(Objective):
    """The network stays as it is: what is said moves the judge, and with it the prompts."""

    asks, trains = True, False

    def loss(self, slices: EncodedBatch, ask: Callable[[], tuple[Tensor, Ranking]]) -> tuple[Tensor, Metrics]:
        """Nothing."""
        return slices.logits.sum() * 0, {}


class SelfTraining(Objective):
    """Control: the finetuned model's own mask as label. Nobody is asked."""

    def loss(self, slices: EncodedBatch, ask: Callable[[], tuple[Tensor, Ranking]]) -> tuple[Tensor, Metrics]:
        """Segmentation loss on all pixels: the label is not a person's, who would have ignored some."""
        target = self_training_target(slices.reference_logits, self.mask_cut)
        return self.segmentation_loss(slices.logits, target, None).sum() / self.divisor(len(target)), {}


class BestCandidate(Objective):
    """Control: the proposal that was put first as label."""

    asks = True

    def loss(self, slices: EncodedBatch, ask: Callable[[], tuple[Tensor, Ranking]]) -> tuple[Tensor, Metrics]:
        """Segmentation loss; where nothing is preferred to anything no proposal is best."""
        proposals, ranking = ask()
        target = best_candidate_target(proposals, ranking)
        losses = self.segmentation_loss(slices.logits, target, slices.batch.counted)
        return (losses * ranking.valid).sum() / self.divisor(ranking.valid.sum()), {}
