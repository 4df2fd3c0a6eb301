"""Read run folders into records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.errors import ConfigurationError
from samdpo.files import hash_of, read_json
from samdpo.lab.benchmark.cell import Cell
from samdpo.lab.benchmark.cells import is_finished
from samdpo.lab.benchmark.effort import judgement_bits, outline_bits
from samdpo.lab.benchmark.execute import cost_of
from samdpo.lab.benchmark.methods import Method
from samdpo.lab.benchmark.records import METRICS, Record
from samdpo.lab.benchmark.steps import log_file
from samdpo.names import ending_of
from samdpo.paths import MODEL_SEPARATOR
from samdpo.planning.splits import load_splits
from samdpo.preprocessing.store import SliceStore


def collect_run(cell: Cell, dataset: str, plans: str, method: Method, fold: str) -> Record:
    """What is known of one run.

    Args:
        cell: it belongs to.
        dataset: ``DatasetXXX_Name``.
        plans: the benchmark's plan.
        method: its row.
        fold: number, or ``all``.

    Raises:
        ConfigurationError: a file of the run is damaged, or the method was trained by two trainers.
    """
    plans_name = plans + method.plans_suffix
    folder = _fold_folder(cell, dataset, plans_name, method.stage, fold)
    record = Record(dataset, method.name, method.stage, plans_name, cell.labelled, cell.seed, fold, "missing", folder,
                    cell.unlabelled)
    log = log_file(cell, "samdpo_train", dataset, plans_name, method.stage, fold)
    cost = cost_of(log)
    measured = {} if cost is None else {
        "cpu_minutes": cost.cpu_seconds / 60, "wall_minutes": cost.wall_seconds / 60,
        "peak_memory_gib": cost.peak_memory_gib,
    }
    if is_finished(folder, method.validation):
        return replace(record, status="done", **measured, **_scores(folder / method.validation / "summary.json"),
                       **_description(folder, cell.preprocessed / dataset))
    if cost is not None and cost.status == "failed":
        return replace(record, status="failed", reason=cost.reason, **measured)
    return record


def _fold_folder(cell: Cell, dataset: str, plans_name: str, stage: str, fold: str) -> Path:
    found = sorted((cell.results / dataset).glob(f"*{MODEL_SEPARATOR}{plans_name}{MODEL_SEPARATOR}{stage}"))
    if len(found) > 1:
        raise ConfigurationError(
            f"{stage!r} was trained by several trainers: {', '.join(map(str, found))}. A benchmark has one run of a "
            "method in a cell: move the others away."
        )
    model = found[0] if found else cell.model_folder(dataset, "TRAINER", plans_name, stage)
    return model / f"fold_{fold}"


def _scores(summary_file: Path) -> dict[str, Any]:
    remedy = "Make it again with: samdpo_train DATASET STAGE FOLD --val"
    summary = read_json(summary_file, remedy=remedy)
    try:
        metrics = {name: float(summary["foreground_mean"][name]) for name in METRICS}
        per_case = {
            _case(entry): _mean([scores["Dice"] for scores in entry["metrics"].values()])
            for entry in summary["metric_per_case"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{summary_file} is no summary of ours: {error!r}. {remedy}") from error
    return {"summary": summary_file, "metrics": metrics, "per_case": per_case, "val_hash": hash_of(sorted(per_case))}


def _description(folder: Path, preprocessed: Path) -> dict[str, Any]:
    """What the run says of its data and its length, and what it asked of an annotator."""
    model = read_json(folder / "model.json")
    cases = sorted(model.get("labelled_cases") or [])
    found: dict[str, Any] = {
        "epochs": model.get("epochs"), "n_labelled": len(cases), "labelled_hash": hash_of(cases),
    }
    if (folder / "cost.json").is_file():
        found["train_minutes"] = read_json(folder / "cost.json").get("train_minutes")
    fold = folder.name.removeprefix("fold_")
    if fold.isdigit() and (preprocessed / "splits_final.json").is_file():
        found["n_unlabelled"] = len(load_splits(preprocessed)[int(fold)].unlabelled)
    plans, debug = folder.parent / "plans.json", folder / "debug.json"
    if plans.is_file() and debug.is_file():
        content, settings = read_json(plans), read_json(debug).get("settings") or {}
        found["minutes_allowed"] = settings.get("minutes")
        found["judgement_bits"] = judgement_bits(
            settings, content["structures"], content["prompting"]["n_hypotheses"], model.get("epochs") or 0,
            (folder / "prompts").is_dir(),
        )
        found["outline_bits"] = _outline_bits(preprocessed / content["preprocessing"]["data_identifier"], cases)
    return found


def _outline_bits(slices: Path, cases: Sequence[str]) -> float | None:
    """Mean over the labelled cases, all slices of a case together; None where the slices are gone."""
    bits = [found for case in cases if (found := _outline_bits_of(slices, case)) is not None]
    return float(np.mean(bits)) if bits else None


@cache
def _outline_bits_of(slices: Path, case: str) -> float | None:
    store = SliceStore(slices)
    if not (slices.is_dir() and store.has(case) and store.has_label(case)):
        return None
    return sum(outline_bits(store.label(case, index)) for index in range(store.n_slices(case)))


def _case(entry: dict[str, Any]) -> str:
    name = Path(entry["reference_file"]).name
    return name[: -len(ending_of(name))] if ending_of(name) else Path(name).stem


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan
