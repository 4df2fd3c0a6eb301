"""How far people agree: Kendall's tau of pairs, Krippendorff's alpha of all."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from samdpo.preferences.recorded import scores
from samdpo.preferences.records import Judgement

MOST_COMPARED = 100  # people of whom each two are compared

Scores = Mapping[tuple[int, str], Sequence[float]]
"""(item, person) -> how that person scores each candidate: higher is better."""


def scores_of(judgements: Sequence[Judgement], candidates: Mapping[int, int]) -> dict[tuple[int, str], list[float]]:
    """Scores of the judgements that say something about single candidates.

    Args:
        judgements: not undone ones.
        candidates: item -> number of its candidates.
    """
    return {
        (j.item, j.annotator): scores(j, candidates[j.item])
        for j in judgements if j.verdict in ("ranked", "accepted")
    }


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Tau-b of two people's scores of one item's candidates, from -1 (opposite) to 1; NaN where one ties all."""
    one, other = _direction(first), _direction(second)
    return float("nan") if one is None or other is None else float(one @ other)


def pairwise_tau(given: Scores, most: int = MOST_COMPARED) -> dict[tuple[str, str], tuple[float, int]]:
    """Of each two people the mean tau over the items that both have scored, and how many these are.

    Items of which one of them ties all candidates are left out; pairs without a common item are too.

    Args:
        given: scores.
        most: so many people are compared, those who have scored most: there are half a million pairs of a thousand.
    """
    scored = Counter(person for _, person in given)
    people = sorted(person for person, _ in scored.most_common(most))
    place = {person: index for index, person in enumerate(people)}
    sums, counts = np.zeros((len(people), len(people))), np.zeros((len(people), len(people)), int)
    for of_item in _directions_by_item(given):
        some = [person for person in of_item if person in place]
        if len(some) > 1:
            rows = np.ix_(*[[place[person] for person in some]] * 2)
            directions = np.stack([of_item[person] for person in some])
            sums[rows] += directions @ directions.T
            counts[rows] += 1
    return {
        (one, other): (float(sums[i, j] / counts[i, j]), int(counts[i, j]))
        for (i, one), (j, other) in itertools.combinations(enumerate(people), 2) if counts[i, j]
    }


def mean_tau(given: Scores) -> tuple[float, int]:
    """Mean tau over all pairs of people and their common items, and the number of comparisons; NaN without any."""
    total, compared = 0.0, 0
    for of_item in _directions_by_item(given):
        n, together = len(of_item), sum(of_item.values())
        # |Σ d|² holds every pair twice and every person with themselves once: the pairs need not be gone through.
        total += (float(together @ together) - n) / 2
        compared += n * (n - 1) // 2
    return (total / compared if compared else float("nan")), compared


def _directions_by_item(given: Scores) -> list[dict[str, np.ndarray]]:
    """Per item: person -> direction, of those who do not tie all candidates."""
    by_item: dict[int, dict[str, np.ndarray]] = {}
    for (item, person), of_item in given.items():
        direction = _direction(of_item)
        if direction is not None:
            by_item.setdefault(item, {})[person] = direction
    return list(by_item.values())


def _direction(scores: Sequence[float]) -> np.ndarray | None:
    """Which of each two candidates is better, as a unit vector: the product of two people's is their tau-b."""
    values = np.asarray(scores, float)
    first, second = np.triu_indices(len(values), 1)
    signs = np.sign(values[first] - values[second])
    length = np.linalg.norm(signs)
    return signs / length if length else None


def krippendorff_alpha(given: Scores) -> float:
    """Krippendorff's alpha, ordinal (Krippendorff 2004, ch. 11), over items that at least two people have scored.

    The units are the candidates of these items, the values their ranks within the item (ties share the mean rank):
    1 is full agreement, 0 what ranks drawn at random would give, below 0 is worse than that. NaN where no item is
    shared or nobody prefers anything.
    """
    import krippendorff
    from scipy.stats import rankdata

    by_item: dict[int, list[np.ndarray]] = {}
    for (item, _), of_item in given.items():
        by_item.setdefault(item, []).append(rankdata(-np.asarray(of_item)))
    shared = [np.stack(ranks) for ranks in by_item.values() if len(ranks) > 1]  # people x candidates
    domain = np.unique(np.concatenate([ranks.ravel() for ranks in shared])) if shared else np.empty(0)
    if len(domain) < 2:
        return float("nan")
    # How often each rank was given to each candidate: who gave it does not matter, and people may be many.
    counts = np.concatenate([(ranks[:, :, None] == domain).sum(0) for ranks in shared])
    return float(krippendorff.alpha(value_counts=counts, value_domain=domain, level_of_measurement="ordinal"))
