"""How far people agree: Kendall's tau of pairs, Krippendorff's alpha of all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from samdpo.preferences.database.records import Judgement
from samdpo.preferences.recorded import scores

Scores = Mapping[tuple[int, str], Sequence[float]]
"""(item, person) -> how that person scores each candidate: higher is better."""


def scores_of(judgements: Sequence[Judgement], candidates: Mapping[int, int]) -> dict[tuple[int, str], list[float]]:
    """Scores of the judgements that say something about single candidates.

    Args:
        judgements: not undone ones.
        candidates: item -> number of its candidates.
    """
    return {
        (j.item, j.annotator): scores(j, candidates[j.item]) for j in judgements if j.verdict == "ranked"
    }


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Tau-b of two people's scores of one item's candidates, from -1 (opposite) to 1; NaN where one ties all."""
    from scipy.stats import kendalltau

    if len(set(first)) < 2 or len(set(second)) < 2:
        return float("nan")
    return float(kendalltau(first, second, variant="b").statistic)


def pairwise_tau(given: Scores) -> dict[tuple[str, str], tuple[float, int]]:
    """Of each two people the mean tau over the items that both have scored, and how many these are.

    Items of which one of them ties all candidates are left out; pairs without a common item are too.
    """
    people: dict[str, dict[int, Sequence[float]]] = {}
    for (item, person), of_item in given.items():
        people.setdefault(person, {})[item] = of_item
    found = {}
    for one, other in itertools.combinations(sorted(people), 2):
        taus = [kendall_tau(people[one][i], people[other][i]) for i in people[one].keys() & people[other].keys()]
        taus = [tau for tau in taus if not np.isnan(tau)]
        if taus:
            found[one, other] = (float(np.mean(taus)), len(taus))
    return found


def mean_tau(given: Scores) -> tuple[float, int]:
    """Mean of :func:`pairwise_tau` over pairs and items, and the number of comparisons; NaN without any."""
    pairs = pairwise_tau(given).values()
    compared = sum(count for _, count in pairs)
    return (sum(tau * count for tau, count in pairs) / compared if compared else float("nan")), compared


def krippendorff_alpha(given: Scores) -> float:
    """Krippendorff's alpha, ordinal (Krippendorff 2004, ch. 11), over items that at least two people have scored.

    The units are the candidates of these items, the values their ranks within the item (ties share the mean rank):
    1 is full agreement, 0 what ranks drawn at random would give, below 0 is worse than that. NaN where no item is
    shared or nobody prefers anything.
    """
    import krippendorff
    from scipy.stats import rankdata

    by_item: dict[int, dict[str, np.ndarray]] = {}
    for (item, person), of_item in given.items():
        by_item.setdefault(item, {})[person] = rankdata(-np.asarray(of_item))
    shared = {item: ranks for item, ranks in by_item.items() if len(ranks) > 1}
    people = sorted({person for ranks in shared.values() for person in ranks})
    columns = []
    for ranks in shared.values():
        k = len(next(iter(ranks.values())))
        columns.append(np.stack([ranks.get(person, np.full(k, np.nan)) for person in people]))
    if not columns:
        return float("nan")
    data = np.concatenate(columns, axis=1)
    if len(np.unique(data[~np.isnan(data)])) < 2:
        return float("nan")
    return float(krippendorff.alpha(reliability_data=data, level_of_measurement="ordinal"))
