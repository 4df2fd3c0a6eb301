"""What an annotator says about candidates, and the virtual annotator of the paper.

People are in :mod:`samdpo.preferences.recorded`: they have seen stored candidates and no others.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from samdpo.errors import PlansError
from samdpo.plans import AnnotatorPlan
from samdpo.prompting.regions import mask_iou

Scoring = Literal["ranking", "rating", "best"]


@dataclass(frozen=True)
class Ranking:
    """What an annotator said about K candidates of each of N images.

    Attributes:
        order: (N, K) long, candidate indices, best first.
        score: (N, K) float of each candidate, in candidate order: overlap (IoU) with the truth. Equal scores are ties.
        rating: (N, K) long from 1 (worst) to the number of bins + 1 (best; 4 in the paper), in candidate order.
        valid: (N,) bool; False where nothing is preferred to anything: such images carry no signal.
        scoring: which of the three the annotator was asked for; it decides the weights of Eq. 5.
        weights: (N, K) float, the weights of Eq. 5 themselves, in candidate order, where they do not follow from one
            order: the mean over several people.
    """

    order: Tensor
    score: Tensor
    rating: Tensor
    valid: Tensor
    scoring: Scoring
    weights: Tensor | None = None

    def to(self, device: torch.device | str) -> Ranking:
        """The same on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, **moved)


class VirtualAnnotator:
    """The paper's simulated annotator: sees the truth, and passes on only an order or ratings (Sec. 3.2).

    Noise flips neighbours, as in the paper's supplement: with ``ranking`` and ``best`` every pair of adjacent ranks is
    swapped with probability ``plan.noise`` and no candidate moves more than one place; with ``rating`` every rating
    becomes one of its neighbours with that probability.

    With ``rating``, candidates of one bin are tied. The order lists them as they were proposed, never by overlap,
    since somebody who gives ratings has not said more; the loss gives them equal weights.
    """

    def __init__(self, plan: AnnotatorPlan, generator: torch.Generator) -> None:
        if not 0 <= plan.noise <= 0.5:
            raise PlansError(f"annotator.noise is {plan.noise}; expected a share of flipped neighbours from 0 to 0.5.")
        if list(plan.rating_bins) != sorted(set(plan.rating_bins)):
            raise PlansError(f"annotator.rating_bins is {list(plan.rating_bins)}; expected rising overlaps.")
        self.plan = plan
        self.generator = generator

    def rank(self, candidates: Tensor, truth: Tensor | None) -> Ranking:
        """Rank candidates by their overlap with the truth.

        Args:
            candidates: (N, K, H, W) bool.
            truth: (N, H, W) bool; required.

        Returns:
            The ranking. ``valid`` is False where all candidates overlap the truth equally (which includes equal
            candidates), and with ``rating`` also where all fall into one bin.
        """
        if truth is None:
            raise ValueError("The virtual annotator compares with the truth; None was given.")
        score = iou(candidates, truth)
        bins = score.new_tensor(self.plan.rating_bins)
        rating = 1 + torch.bucketize(score, bins, right=True)
        valid = (score != score[:, :1]).any(1)
        if self.plan.scoring == "rating":
            rating = self._flip_ratings(rating, len(bins) + 1)
            order = torch.argsort(rating, dim=1, descending=True, stable=True)
            valid = valid & (rating != rating[:, :1]).any(1)
        else:
            order = torch.argsort(score, dim=1, descending=True, stable=True)
            order = self._flip_ranks(order)
        return Ranking(order, score, rating, valid, self.plan.scoring)

    def _flip_ranks(self, order: Tensor) -> Tensor:
        p = self.plan.noise
        if p == 0:
            return order
        n, k = order.shape
        draw = torch.rand(n, k - 1, generator=self.generator)
        order = order.clone()
        moved = torch.zeros(n, dtype=torch.bool)
        for i in range(k - 1):
            # A pair whose upper member has just moved stays; p / (1 - p) for the others makes p in all.
            flip = ~moved & (draw[:, i] < (p if i == 0 else p / (1 - p)))
            rows = flip.to(order.device)
            order[rows, i], order[rows, i + 1] = order[rows, i + 1], order[rows, i]
            moved = flip
        return order

    def _flip_ratings(self, rating: Tensor, highest: int) -> Tensor:
        if self.plan.noise == 0:
            return rating
        flip = torch.rand(rating.shape, generator=self.generator) < self.plan.noise
        step = 2 * torch.randint(2, rating.shape, generator=self.generator) - 1
        flip, step = flip.to(rating.device), step.to(rating.device)
        step = torch.where(rating == 1, 1, torch.where(rating == highest, -1, step))
        return torch.where(flip, rating + step, rating)


def iou(candidates: Tensor, truth: Tensor) -> Tensor:
    """IoU of every candidate (N, K, H, W) with the truth (N, H, W) -> (N, K) float; 1 where both are empty."""
    return mask_iou(candidates.bool(), truth.bool()[:, None], both_empty=1.0)[..., 0]
