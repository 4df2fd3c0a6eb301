"""Mean and spread over seeds, and whether a difference between two methods could be chance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from samdpo.lab.benchmark.records import Record


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of ``n`` values; ``sd`` is None for one value."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Comparison:
    """A paired, two-sided Wilcoxon signed-rank test (Wilcoxon 1945) over test cases.

    Attributes:
        rival: the other method.
        n: pairs of cases.
        seeds: over which each case's Dice was averaged.
        difference: mean over cases of Dice minus the rival's.
        p: uncorrected.
        p_holm: corrected over the methods of the table (Holm 1979).
    """

    rival: str
    n: int
    seeds: int
    difference: float
    p: float
    p_holm: float


def spread(values: Sequence[float]) -> Spread:
    """Of one value a seed; NaN for no values."""
    if not values:
        return Spread(math.nan, None, 0)
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def against_best(runs: Mapping[str, Sequence[Record]]) -> dict[str, Comparison]:
    """Each method against the best other one, by mean Dice over seeds.

    Args:
        runs: method -> its runs that are done, of one data set and one amount of labels. Only methods that compete.

    Returns:
        method -> test; without those that share no seed, or no case with a Dice, with their rival.
    """
    means = {name: statistics.fmean(r.metrics["Dice"] for r in done) for name, done in runs.items() if done}
    raw: dict[str, Comparison] = {}
    for name in means:
        others = {other: mean for other, mean in means.items() if other != name}
        if not others:
            continue
        rival = max(others, key=lambda other: others[other])
        found = _paired(runs[name], runs[rival])
        if found is not None:
            mine, theirs, seeds = found
            difference = statistics.fmean(a - b for a, b in zip(mine, theirs))
            raw[name] = Comparison(rival, len(mine), seeds, difference, wilcoxon_p(mine, theirs), math.nan)
    corrected = holm({name: test.p for name, test in raw.items()})
    return {name: replace(test, p_holm=corrected[name]) for name, test in raw.items()}


def wilcoxon_p(one: Sequence[float], other: Sequence[float]) -> float:
    """Two-sided p of the signed-rank test over pairs; 1 where all pairs are equal."""
    from scipy.stats import wilcoxon

    if all(a == b for a, b in zip(one, other)):
        return 1.0
    return float(wilcoxon(one, other).pvalue)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: the smallest of m times m, the next times m - 1, and so on; never falling."""
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[name]))
        corrected[name] = largest
    return corrected


def _paired(one: Sequence[Record], other: Sequence[Record]) -> tuple[list[float], list[float], int] | None:
    """Dice of every case that both have, averaged over the seeds that both have, and the number of these seeds."""
    mine, theirs = ({run.seed: run.per_case for run in runs} for runs in (one, other))
    seeds = sorted(set(mine) & set(theirs))
    pairs = []
    for case in sorted({case for seed in seeds for case in mine[seed]}):
        values = [(mine[seed].get(case, math.nan), theirs[seed].get(case, math.nan)) for seed in seeds]
        known = [pair for pair in values if all(map(math.isfinite, pair))]
        if known:
            pairs.append(tuple(map(statistics.fmean, zip(*known))))
    if not pairs:
        return None
    return [a for a, _ in pairs], [b for _, b in pairs], len(seeds)
