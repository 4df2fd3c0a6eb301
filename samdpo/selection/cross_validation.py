"""The validations of a model's folds put together: each case predicted once, by the fold that did not train on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.dataset.images import spacing_file
from samdpo.errors import ModelFolderError
from samdpo.evaluation.metrics import METRICS, SurfaceUnit
from samdpo.evaluation.summary import summarize
from samdpo.files import copy_file, link_file, write_json
from samdpo.model.description import check_fold, plans_for, read_description
from samdpo.schema import read_checked
from samdpo.selection.trained import TrainedModel

# What a fold's test without a person's prompt writes. Tests with a prompt from the truth lie in other folders, such as
# validation_truth_box, and are never read here.
VALIDATION = "validation"


@dataclass(frozen=True)
class CrossValidation:
    """A model's results on the validation cases of several folds.

    Attributes:
        model: of which.
        folder: ``crossval_results_folds_0_1_…`` in the model folder: masks, ``summary.json``, plan, dataset.json.
        masks: case -> the mask that its fold wrote; probabilities, if any, lie beside it.
        summary: over all cases; see :func:`samdpo.evaluation.summary.summarize`.
        labelled: number of labelled cases that each fold was trained on; empty where it does not say.
    """

    model: TrainedModel
    folder: Path
    masks: dict[str, Path]
    summary: dict[str, Any]
    labelled: tuple[int, ...]


@dataclass(frozen=True)
class _Entry:
    prediction_file: str
    metrics: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class _Surface:
    unit: str
    tolerance: float


@dataclass(frozen=True)
class _Measured:
    surface: list[_Surface]


@dataclass(frozen=True)
class _Summary:
    """The keys of a fold's ``summary.json`` that are read."""

    metric_per_case: list[_Entry]
    samdpo: _Measured


def folds_text(folds: Sequence[str]) -> str:
    """``0_1_2``, nnU-Net's way to write folds into a name."""
    return "_".join(folds)


def accumulate_folds(model: TrainedModel, folds: Sequence[str]) -> CrossValidation:
    """Put the folds' validations together; writes ``crossval_results_folds_…/`` with links to the masks.

    Nothing is measured anew: the entries of the folds' summaries are averaged together.

    Raises:
        ModelFolderError: a fold is not trained or not validated, a mask is gone, or a case is in two folds.
    """
    missing = [fold for fold in folds if fold not in model.trained_folds()]
    if missing:
        raise ModelFolderError(f"not trained on fold {', '.join(missing)}")
    for fold in folds:
        check_fold(model.fold(fold))
    plans_for(model.folder, folds)
    structures = load_dataset_json(model.folder).structures
    entries: dict[str, dict[str, Any]] = {}
    units: list[SurfaceUnit] = []
    for fold in folds:
        file, remedy = model.fold(fold) / VALIDATION / "summary.json", f"Type: {model.validate_command(fold)}"
        summary = read_checked(_Summary, file, error=ModelFolderError, remedy=remedy)
        units += [SurfaceUnit(unit["unit"], unit["tolerance"]) for unit in summary["samdpo"]["surface"]]
        for entry in summary["metric_per_case"]:
            mask = model.fold(fold) / VALIDATION / Path(entry["prediction_file"]).name
            if not mask.is_file():
                raise ModelFolderError(f"{mask} is missing, which summary.json beside it names. {remedy}")
            if set(entry["metrics"]) != {str(label) for label in structures.values()}:
                raise ModelFolderError(f"{mask.parent / 'summary.json'} has other structures than dataset.json of the "
                                       f"model. {remedy}")
            if mask.name in entries:
                raise ModelFolderError(f"{mask.name} is a validation case of two of the folds {', '.join(folds)}")
            # A summary of an older version may lack a metric.
            metrics = {label: {m: of.get(m, math.nan) for m in METRICS} for label, of in entry["metrics"].items()}
            entries[mask.name] = {**entry, "prediction_file": str(mask), "metrics": metrics}
    ending = load_dataset_json(model.folder).file_ending
    masks = {name.removesuffix(ending): Path(entry["prediction_file"]) for name, entry in sorted(entries.items())}
    folder = model.folder / f"crossval_results_folds_{folds_text(folds)}"
    summary = summarize([entries[name] for name in sorted(entries)], structures, units)
    _write(folder, model, masks, summary, ending)
    return CrossValidation(model, folder, masks, summary, _labelled(model, folds))


def _write(folder: Path, model: TrainedModel, masks: dict[str, Path], summary: dict[str, Any], ending: str) -> None:
    folder.mkdir(exist_ok=True)
    for left in folder.glob(f"*{ending}"):  # of other splits
        if left.name.removesuffix(ending) not in masks:
            left.unlink()
    with_spacing = [file for mask in masks.values() for file in (mask, spacing_file(mask)) if file is not None]
    for file in with_spacing:
        link_file(file, folder / file.name)
    for name in ("plans.json", "dataset.json"):
        copy_file(model.folder / name, folder / name)
    write_json(folder / "summary.json", summary)


def _labelled(model: TrainedModel, folds: Sequence[str]) -> tuple[int, ...]:
    settings = [read_description(model.fold(fold) / "model.json") for fold in folds]
    return tuple(len(of["labelled_cases"]) for of in settings if "labelled_cases" in of)
