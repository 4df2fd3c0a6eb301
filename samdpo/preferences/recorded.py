"""What people said about stored candidates, as the weights of Eq. 5.

A person who ranked, rated or picked the best gives weights as the virtual annotator does
(:func:`samdpo.preferences.losses.candidate_weights`; ties share). Where several people judged an item their weights
are averaged: what they agree on stays, what they contradict each other in cancels. "None is acceptable" and skips
prefer nothing to anything and give no weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from samdpo.plans import PreferenceLossPlan
from samdpo.preferences.annotators import Ranking
from samdpo.preferences.losses import candidate_weights
from samdpo.preferences.records import Item, Judgement
from samdpo.preferences.stored_candidates import StoredCandidates

Place = tuple[str, int, str]  # case, slice, structure


class RecordedAnnotator:
    """People's judgements of one candidate set.

    Args:
        stored: the candidates.
        judgements: not undone ones, of any set; those of other items are passed over.
        plan: gives the betas of Eq. 5.
    """

    def __init__(self, stored: StoredCandidates, judgements: Sequence[Judgement], plan: PreferenceLossPlan) -> None:
        self.stored = stored
        items = {item.id: item for item in stored.items}
        self.judgements = [judgement for judgement in judgements if judgement.item in items]
        by_item: dict[int, list[Judgement]] = {}
        for judgement in self.judgements:
            by_item.setdefault(judgement.item, []).append(judgement)
        self._items: dict[Place, Item] = {}
        self._weights: dict[Place, Tensor] = {}
        for number, of_item in by_item.items():
            item = items[number]
            place = (item.case, item.slice_index, item.structure)
            if any(judgement.verdict != "skipped" for judgement in of_item):
                self._items[place], self._weights[place] = item, consensus(of_item, item.candidates, plan)

    def weights(self, place: Place) -> Tensor | None:
        """(K,) weights of the candidates of an item in Eq. 5; all 0 where people prefer nothing, None where no one
        has judged it."""
        return self._weights.get(place)

    def candidates(self, place: Place) -> Tensor:
        """(K, H, W) bool, the candidates of a judged item."""
        return torch.from_numpy(self.stored.masks(self._items[place]))

    def slices(self) -> set[tuple[str, int]]:
        """Case and slice of the items of which something is preferred to something."""
        return {(case, index) for (case, index, _), weights in self._weights.items() if weights.any()}

    def verdicts(self) -> Counter[str]:
        """How many judgements are ``ranked``, ``none_acceptable``, ``skipped``."""
        return Counter(judgement.verdict for judgement in self.judgements)


def consensus(judgements: Sequence[Judgement], count: int, plan: PreferenceLossPlan) -> Tensor:
    """Mean over people of the weights that each one's judgement of an item gives.

    Args:
        judgements: of one item, one a person.
        count: K, of its candidates.
        plan: betas.

    Returns:
        (K,) float32 in candidate order; zeros where no one has ranked.
    """
    ranked = [ranking_of(judgement, count) for judgement in judgements if judgement.verdict in ("ranked", "accepted")]
    if not ranked:
        return torch.zeros(count)
    mean = torch.stack([candidate_weights(ranking, plan)[0] for ranking in ranked]).mean(0)
    return torch.where(mean.abs() < 1e-6, 0.0, mean)  # opposite orders cancel, but for rounding


def ranking_of(judgement: Judgement, count: int) -> Ranking:
    """A person's answer about K candidates in the virtual annotator's words; N is 1."""
    score = torch.tensor([scores(judgement, count)])
    valid = (score != score[:, :1]).any(1)
    order = torch.argsort(score, dim=1, descending=True, stable=True)
    return Ranking(order, score, score.long(), valid, "best" if judgement.verdict == "accepted" else judgement.mode)


def scores(judgement: Judgement, count: int) -> list[float]:
    """How a person scores each of K candidates, in candidate order: higher is better, equal is a tie."""
    if judgement.ranks is not None:
        return [-float(rank) for rank in judgement.ranks]
    if judgement.ratings is not None:
        return [float(rating) for rating in judgement.ratings]
    return [float(index == judgement.best) for index in range(count)]
