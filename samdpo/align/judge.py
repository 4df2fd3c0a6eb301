"""Judges: who decides between the proposals of a prompt where one of them is to be taken."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from samdpo.align.proposer import EncodedBatch, Proposals
from samdpo.model.slice_labels import known_part
from samdpo.plans import AnnotatorPlan
from samdpo.preferences.annotators import Ranking, VirtualAnnotator


class Judge(ABC):
    """Puts the proposals of every prompt into an order."""

    needs_truth = False  # whether only slices can be judged of which a hidden truth is known
    cut: float | None = None  # of the masks that it is shown, see Proposer.places

    @abstractmethod
    def rank(self, proposals: Proposals, slices: EncodedBatch, generator: torch.Generator) -> Ranking:
        """The order of M proposals of each of N prompts; not valid where none is to be taken.

        Args:
            proposals: of the prompts of ``slices``.
            slices: images, prompts and embeddings.
            generator: a CPU generator, for judges that err.
        """

    @abstractmethod
    def describe(self) -> list[Any]:
        """What its choice depends on, as JSON: part of what is kept prompts' key."""


class QualityJudge(Judge):
    """Takes the proposal of which SAM's quality head predicts the highest overlap: the model's own choice.

    Args:
        cut: probability above which a pixel belongs to a mask; a mask without any is none.
    """

    def __init__(self, cut: float | None = None) -> None:
        self.cut = cut

    def rank(self, proposals: Proposals, slices: EncodedBatch, generator: torch.Generator) -> Ranking:
        """By predicted overlap."""
        quality = proposals.quality
        order = torch.argsort(quality, dim=1, descending=True, stable=True)
        first = proposals.masks[torch.arange(len(order), device=order.device), order[:, 0]]
        return Ranking(order, quality, torch.zeros_like(order), first.flatten(1).any(1), "ranking")

    def describe(self) -> list[Any]:
        """Nobody is asked."""
        return ["the model's own", self.cut]


class VirtualJudge(Judge):
    """The virtual annotator: sees the hidden truth and passes on an order.

    Args:
        annotator: what is asked for, and how often it errs.
        seed: of the stage; its errors are drawn from it.
    """

    needs_truth = True

    def __init__(self, annotator: AnnotatorPlan, seed: int) -> None:
        self.annotator, self.seed = annotator, seed

    def rank(self, proposals: Proposals, slices: EncodedBatch, generator: torch.Generator) -> Ranking:
        """By overlap with the truth of ``slices``; proposals agree on ignored pixels, which nobody can judge."""
        batch, masks = slices.batch, proposals.masks
        annotator = VirtualAnnotator(self.annotator, generator)
        return annotator.rank(known_part(masks, batch.counted), batch.truth.to(masks.device))

    def describe(self) -> list[Any]:
        """The annotator's settings and the seed."""
        return [self.annotator, self.seed]
