"""Which runs a figure draws, and the cases that are drawn of them: by rule, not by taste."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from samdpo.errors import SamdpoError
from samdpo.lab.benchmark.cell import Cell
from samdpo.lab.benchmark.figure_style import in_order
from samdpo.lab.benchmark.methods import METHODS
from samdpo.lab.benchmark.records import Record
from samdpo.paths import PLANS_NAME

log = logging.getLogger(__name__)
_Key, _Read = TypeVar("_Key"), TypeVar("_Read")
REFERENCE = "align"  # whose Dice chooses the cases that are drawn, where it was run


@dataclass(frozen=True)
class Chosen:
    """The runs of one seed that a figure of cases draws.

    Attributes:
        dataset: ``DatasetXXX_Name``.
        reference: the method whose Dice chose the seed and chooses the cases.
        runs: one a method, in the figures' order; all of one cell.
        cell: with the prompts, slices and true masks.
    """

    dataset: str
    reference: str
    runs: tuple[Record, ...]
    cell: Cell

    @property
    def reference_run(self) -> Record:
        """The run of the reference."""
        return next(run for run in self.runs if run.method == self.reference)

    @property
    def preprocessed(self) -> Path:
        """``nnUNet_preprocessed/DATASET`` of the cell."""
        return self.cell.preprocessed / self.dataset

    @property
    def settings(self) -> str:
        """What the runs were given, in words."""
        labels = f"{100 * self.runs[0].labelled:.4g}% labelled"
        count = self.reference_run.n_labelled
        cases = "" if count is None else f" ({count} case{'s' * (count != 1)})"
        return f"{labels}{cases}, seed {self.runs[0].seed}"


def main_runs(records: Iterable[Record]) -> list[Record]:
    """Runs of the main comparison that have a Dice: no ablation, no share of unlabelled images left out."""
    return [
        one for one in records
        if one.done and one.method in METHODS and one.unlabelled is None
        and math.isfinite(one.metrics.get("Dice", math.nan))
    ]


def dice_by_seed(runs: Iterable[Record]) -> dict[str, dict[float, list[float]]]:
    """Method -> share of labelled data -> Dice of each seed; the folds of a seed are averaged."""
    found: dict[str, dict[float, dict[int, list[float]]]] = {}
    for one in runs:
        of_seed = found.setdefault(one.method, {}).setdefault(one.labelled, {})
        of_seed.setdefault(one.seed, []).append(one.metrics["Dice"])
    return {
        method: {
            share: [float(np.mean(of_seed[seed])) for seed in sorted(of_seed)]
            for share, of_seed in sorted(found[method].items())
        }
        for method in in_order(found)
    }


def choose_runs(records: Sequence[Record], cells: Sequence[Cell], dataset: str) -> Chosen | None:
    """The runs to draw cases of: the smallest share of labels, the usual plan, the first fold, the seed of median Dice.

    Args:
        records: of all datasets.
        cells: of the benchmark.
        dataset: wanted.

    Returns:
        None where no run of it is done whose cell is among ``cells``.
    """
    at = {(cell.labelled, cell.seed): cell for cell in cells if cell.unlabelled is None}
    runs = [one for one in main_runs(records) if one.dataset == dataset and (one.labelled, one.seed) in at]
    if not runs:
        return None
    runs = _of_first(runs, lambda one: one.labelled)
    runs = _of_first(runs, lambda one: (one.plans_name != PLANS_NAME, one.plans_name))
    runs = _of_first(runs, lambda one: one.fold)
    methods = in_order(one.method for one in runs)
    reference = REFERENCE if REFERENCE in methods else methods[0]
    seed = percentile_of({one.seed: one.metrics["Dice"] for one in runs if one.method == reference}, 50)
    drawn = {one.method: one for one in runs if one.seed == seed}
    return Chosen(dataset, reference, tuple(drawn[method] for method in in_order(drawn)), at[runs[0].labelled, seed])


def of_each_dataset(
    records: Sequence[Record], cells: Sequence[Cell], figure: str, read: Callable[[Chosen], _Read | None]
) -> list[_Read]:
    """What ``read`` makes of the chosen runs of each dataset; one that cannot be read is left out with a warning.

    Args:
        records: of all datasets.
        cells: of the benchmark.
        figure: for the warning.
        read: gives None for a dataset that the figure does not draw.
    """
    found = []
    for dataset in sorted({one.dataset for one in records}):
        try:
            chosen = choose_runs(records, cells, dataset)
            made = None if chosen is None else read(chosen)
        except (SamdpoError, OSError, ValueError) as error:
            log.warning("%s is drawn without %s: %s", figure, dataset, error)
            continue
        if made is not None:
            found.append(made)
    return found


def _of_first(runs: Sequence[Record], key: Callable[[Record], Any]) -> list[Record]:
    first = min(map(key, runs))
    return [one for one in runs if key(one) == first]


def percentile_of(values: Mapping[_Key, float], percentile: float) -> _Key:
    """The key whose value lies nearest to a percentile (0 to 100) of all; of two as near the lower. NaN is left out.

    Raises:
        ValueError: there is no number among the values.
    """
    ordered = sorted((value, key) for key, value in values.items() if math.isfinite(value))
    if not ordered:
        raise ValueError("there is no number to choose from")
    return ordered[math.ceil(percentile / 100 * (len(ordered) - 1) - 0.5)][1]


def panel_title(dataset: str, plans: str = "") -> str:
    """``Lung Xray, PLANS`` of ``Dataset101_LungXray``."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", dataset.partition("_")[2]).replace("_", " ")
    return f"{words}, {plans}" if plans else words
