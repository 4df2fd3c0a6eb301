"""Whether a structure is better off with its largest part alone, on validation cases (as nnU-Net's postprocessing)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from samdpo.dataset.dataset_json import DatasetJson
from samdpo.evaluation.metrics import overlap_metrics
from samdpo.evaluation.summary import read_pair
from samdpo.model.masks import keep_largest_components
from samdpo.names import as_spelled
from samdpo.parallel import map_cases
from samdpo.selection.postprocessing import Postprocessing, StructureEffect


def determine_postprocessing(
    truth: Path, predicted: Path, cases: Sequence[str], dataset: DatasetJson, processes: int = 1
) -> Postprocessing:
    """Dice of every structure as predicted, and with all but its largest part removed.

    Args:
        truth: folder of true label maps.
        predicted: folder of predicted ones, on cases that were not trained on.
        cases: identifiers.
        dataset: structures, file ending, ignore label.
        processes: cases at once.
    """
    work = partial(_dice_before_and_after, truth, predicted, dataset)
    dice = np.array(list(map_cases(work, cases, processes, "postprocessing")))  # (cases, L, 2)
    effects = {}
    for row, (name, label) in enumerate(dataset.structures.items()):
        measured = dice[~np.isnan(dice[:, row]).any(1), row]
        before, after = measured.mean(0).tolist() if len(measured) else (float("nan"), float("nan"))
        effects[name] = StructureEffect(label, before, after)
    return Postprocessing(effects)


def _dice_before_and_after(truth: Path, predicted: Path, dataset: DatasetJson, case: str) -> list[list[float]]:
    files = (as_spelled(folder / f"{case}{dataset.file_ending}") for folder in (truth, predicted))
    ref, _, before, _ = read_pair(*files, dataset.labels)
    labels = list(dataset.structures.values())
    after = keep_largest_components(before.copy(), labels)
    counted = np.ones(ref.shape, bool) if dataset.ignore_label is None else ref != dataset.ignore_label
    return [
        [overlap_metrics((pred == label) & counted, ref == label)["Dice"] for pred in (before, after)]
        for label in labels
    ]
