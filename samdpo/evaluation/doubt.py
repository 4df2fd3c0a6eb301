"""How much of the error a person finds who looks at the cases that the reports doubt most.

A report beside a prediction says how sure the model is of each structure, and whether a person should look
(``look_at``). Where there is a truth, that can be measured.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.errors import DatasetError, few
from samdpo.names import json_beside
from samdpo.schema import read_checked

log = logging.getLogger(__name__)

SHARES = (0.1, 0.2)  # of the cases that somebody looks at
LEAST_CASES = 10  # fewer say nothing of shares


@dataclass(frozen=True)
class Caught:
    """What looking at some of the cases finds.

    Attributes:
        cases: that are looked at.
        error: share of the error of all cases that is in them.
        best: the same, had they been chosen by the truth; no order finds more.
        by_chance: the same, of as many cases drawn at random, on average.
    """

    cases: int
    error: float
    best: float
    by_chance: float


@dataclass(frozen=True)
class Doubt:
    """Of predictions with reports.

    Attributes:
        cases: that have a report.
        flagged: those whose ``look_at`` is set.
        shares: share of the cases that are looked at, the most doubted first, as text -> what that finds.
    """

    cases: int
    flagged: Caught
    shares: dict[str, Caught]


@dataclass(frozen=True)
class _StructureReport:
    pixels: int = 0
    confidence: float = 0.0
    place_confidence: float = 1.0


@dataclass(frozen=True)
class _Report:
    """The keys of a case's report that are read."""

    structures: dict[str, _StructureReport]
    look_at: bool = False


def measure_doubt(cases: Sequence[Mapping[str, Any]]) -> Doubt | None:
    """Compare the order in which reports doubt their cases with the error of the masks.

    The error of a case is 1 - Dice, mean over its structures; one that is neither there nor found has none. Cases whose
    ``look_at`` is set come first, and of both kinds those of the lowest :func:`confidence_of` theirs.

    Args:
        cases: entries ``metric_per_case`` of a summary, whose reports lie beside their predictions; others are left
            out.

    Returns:
        None where fewer than :data:`LEAST_CASES` have a report, or no mask has an error. Reports that are damaged are
        left out, with a warning.
    """
    flags, confidences, errors, damaged = [], [], [], []
    for case in cases:
        file = json_beside(Path(case["prediction_file"]))
        if not file.is_file():
            continue
        try:
            report = read_checked(_Report, file, error=DatasetError, remedy="")
        except DatasetError:
            damaged.append(file.name)
            continue
        dice = [metrics["Dice"] for metrics in case["metrics"].values() if not math.isnan(metrics["Dice"])]
        flags.append(bool(report.get("look_at", False)))
        confidences.append(confidence_of(report))
        errors.append(1 - float(np.mean(dice)) if dice else 0.0)
    if damaged and errors:
        log.warning("%s are no reports of predictions, and are left out of the measure of doubt.", few(damaged))
    total = sum(errors)
    if len(errors) < LEAST_CASES or total == 0:
        return None
    doubted = np.asarray(errors)[np.lexsort((confidences, np.logical_not(flags)))]
    worst = np.sort(errors)[::-1]

    def caught(count: int) -> Caught:
        found = (float(order[:count].sum() / total) for order in (doubted, worst))
        return Caught(count, *found, count / len(errors))

    shares = {f"{share:g}": caught(math.ceil(share * len(errors))) for share in SHARES}
    return Doubt(len(errors), caught(sum(flags)), shares)


def confidence_of(report: Mapping[str, Any]) -> float:
    """Of a case, in [0, 1]: of each structure that was found the smaller one of mask and place, mean over structures.

    Args:
        report: as it lies beside the prediction.

    Returns:
        Where nothing was found 0 if ``look_at`` is set, as it is where something should have been, and else 1.
    """
    found = [min(one.get("confidence", 0.0), one.get("place_confidence", 1.0))
             for one in report.get("structures", {}).values() if one.get("pixels", 0)]
    return float(np.mean(found)) if found else float(not report.get("look_at", False))
