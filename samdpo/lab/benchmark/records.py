"""What is known of the runs: where each lies, how it scored, what it cost, which cases it had.

Run folders are read into records. That methods are compared fairly is asserted from what lies in these folders, not
trusted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from samdpo.errors import ConfigurationError, few
from samdpo.files import hash_of, read_json, write_json
from samdpo.lab.benchmark.cells import Cell, is_tested, log_file
from samdpo.lab.benchmark.effort import Asked, asked_about_places, judgement_bits, outline_bits
from samdpo.lab.benchmark.execute import cost_of
from samdpo.lab.benchmark.methods import Method
from samdpo.names import ending_of
from samdpo.paths import FOLD_ALL
from samdpo.planning.splits import SPLITS_FILE, load_splits
from samdpo.preprocessing.store import SliceStore

METRICS = ("Dice", "IoU", "SurfaceDice")  # of a summary, as the tables list them
Status = Literal["done", "failed", "missing"]


@dataclass(frozen=True)
class Record:
    """One method trained once: a row of ``benchmark.json``.

    Attributes:
        dataset: ``DatasetXXX_Name``.
        method: name in :data:`samdpo.lab.benchmark.methods.METHODS`, or of an ablation.
        stage: configuration of the plan.
        plans_name: of the plan in the model folder's name.
        labelled: share of the training cases whose labels are used.
        unlabelled: share taken as unlabelled; None for all the rest.
        seed: of the cell.
        fold: number of the fold, or ``all``.
        status: ``done`` has scores; ``failed`` has a reason; ``missing`` was not run.
        folder: ``…/TRAINER__PLANS__STAGE/fold_X``; where the run is missing, the folder it would have.
        summary: ``validation/summary.json`` that gave the numbers; None unless done.
        metrics: those of :data:`METRICS`, in [0, 1]: mean over cases of each structure, then over
            structures, as the summary's ``foreground_mean``.
        per_case: validation case -> Dice, mean over its structures; NaN where none of them is in truth or mask.
        train_minutes: of the optimisation steps alone, as the budget counts them; None where the run does not say.
        cpu_minutes: of the whole command, its children included; None where it was not measured.
        wall_minutes: likewise, on the clock.
        peak_memory_gib: likewise, of the largest process.
        minutes_allowed: training's budget, 0 for none; None where the run does not say.
        epochs: that were trained, or begun.
        n_labelled: cases whose labels were trained on.
        n_unlabelled: cases of the fold that count as unlabelled; None where the run does not say.
        outline_bits: of an annotator's effort for one labelled case, see :mod:`samdpo.lab.benchmark.effort`.
        judgement_bits: likewise for one unlabelled image, over the whole training, of stages over pixels; 0 where
            nobody is asked.
        asked: what was asked about places, and how long it took; None for other stages.
        labelled_hash: of the sorted cases whose labels were trained on.
        val_hash: of the sorted cases that were tested on.
        reason: last line of the error where it failed.
    """

    dataset: str
    method: str
    stage: str
    plans_name: str
    labelled: float
    seed: int
    fold: str
    status: Status
    folder: Path
    unlabelled: float | None = None
    summary: Path | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    per_case: dict[str, float] = field(default_factory=dict)
    train_minutes: float | None = None
    cpu_minutes: float | None = None
    wall_minutes: float | None = None
    peak_memory_gib: float | None = None
    minutes_allowed: float | None = None
    epochs: int | None = None
    n_labelled: int | None = None
    n_unlabelled: int | None = None
    outline_bits: float | None = None
    judgement_bits: float | None = None
    asked: Asked | None = None
    labelled_hash: str | None = None
    val_hash: str | None = None
    reason: str = ""

    @property
    def done(self) -> bool:
        """Whether it has scores."""
        return self.status == "done"

    @property
    def has_dice(self) -> bool:
        """Whether a Dice is among them; none is where no test case has a structure, in truth or mask."""
        return self.done and math.isfinite(self.metrics.get("Dice", math.nan))

    @property
    def group(self) -> tuple[str, float, float | None]:
        """Runs of one dataset and amount of labels, which a table compares: (dataset, labelled, unlabelled)."""
        return self.dataset, self.labelled, self.unlabelled

    def to_json(self, root: Path) -> dict[str, Any]:
        """As JSON has it: paths as they are below ``root``, the benchmark's folder, so that it may be moved."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content["asked"] = None if self.asked is None else asdict(self.asked)
        return {**content, **{name: _below(content[name], root) for name in ("folder", "summary")}}

    @classmethod
    def from_json(cls, content: dict[str, Any], root: Path) -> Record:
        """The inverse of :meth:`to_json`."""
        asked = content.get("asked")
        record = cls(**{**content, "asked": None if asked is None else Asked(**asked)})
        summary = None if record.summary is None else root / record.summary
        return replace(record, folder=root / record.folder, summary=summary)


def save_records(records: Sequence[Record], root: Path, extra: dict[str, Any] | None = None) -> Path:
    """Write ``root/benchmark.json``: ``extra``, then ``runs``."""
    file = root / "benchmark.json"
    write_json(file, {**(extra or {}), "runs": [record.to_json(root) for record in records]})
    return file


def load_records(root: Path) -> list[Record]:
    """The runs of ``root/benchmark.json``.

    Raises:
        ConfigurationError: there is no such file, or it is of another kind.
    """
    remedy = "Make it with: samdpo_benchmark --only_collect"
    content = read_json(root / "benchmark.json", error=ConfigurationError, remedy=remedy)
    try:
        return [Record.from_json(run, root) for run in content["runs"]]
    except (KeyError, TypeError) as error:
        raise ConfigurationError(f"{root / 'benchmark.json'} has runs of another form: {error}. {remedy}") from error


def _below(path: Path | None, root: Path) -> str | None:
    if path is None:
        return None
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


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
    if is_tested(folder, method.validation):
        return replace(record, status="done", **measured, **_scores(folder / method.validation / "summary.json"),
                       **_description(folder, cell.preprocessed / dataset))
    if cost is not None and cost.status == "failed":
        return replace(record, status="failed", reason=cost.reason, **measured)
    return record


def _fold_folder(cell: Cell, dataset: str, plans_name: str, stage: str, fold: str) -> Path:
    found = cell.model_folders(dataset, plans_name, stage)
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
        "asked": asked_about_places(folder),
    }
    if (folder / "cost.json").is_file():
        found["train_minutes"] = read_json(folder / "cost.json").get("train_minutes")
    fold = folder.name.removeprefix("fold_")
    if fold.isdigit() and (preprocessed / SPLITS_FILE).is_file():
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


@dataclass(frozen=True)
class _Cases:
    """What a run's own files say of its cases."""

    record: Record
    labelled: frozenset[str]
    val: frozenset[str]
    data: Mapping[str, str]  # hashes of the fold's parts; empty in runs of older versions

    @classmethod
    def of(cls, record: Record) -> _Cases:
        model = read_json(record.folder / "model.json", remedy="Train the run again.")
        return cls(record, frozenset(model["labelled_cases"]), frozenset(record.per_case), model.get("data") or {})


def assert_same_cases(records: Iterable[Record], methods: Mapping[str, Method]) -> None:
    """Check that all methods of a cell trained on the same labels, and all runs of a data set were tested alike.

    Methods that see all labels must agree among themselves, and must have all those of the others. No run may have
    trained on a label that it is tested on.

    Args:
        records: those that are done count.
        methods: every row's method by name.

    Raises:
        ConfigurationError: a mismatch; the message names both run folders and the cases.
    """
    tested: dict[tuple[str, str], _Cases] = {}
    trained: dict[tuple[object, ...], _Cases] = {}
    upper: dict[tuple[object, ...], _Cases] = {}
    for run in (_Cases.of(record) for record in records if record.done):
        record = run.record
        leaked = sorted(run.labelled & run.val)
        if leaked and record.fold != FOLD_ALL:  # which validates on what it trains on, as in nnU-Net
            raise ConfigurationError(
                f"{record.folder} trained on labels that it is tested on: {few(leaked)}. Plan the cell anew."
            )
        _same_val(tested.setdefault((record.dataset, record.fold), run), run)
        cell = (record.dataset, record.labelled, record.unlabelled, record.seed, record.fold)
        everything = methods[record.method].all_labels
        first = (upper if everything else trained).setdefault(cell, run)
        _same_labelled(first, run)
        _same_data(first, run, ("train", "val", "labelled", *(() if everything else ("unlabelled",))))
        other = (trained if everything else upper).get(cell)
        if other is not None:
            some, every = (other, run) if everything else (run, other)
            _all_labels(some, every)
            _same_data(some, every, ("train", "val"))


def _same_val(one: _Cases, other: _Cases) -> None:
    if one.val != other.val:
        raise _mismatch("were tested on different cases", one, other, one.val, other.val)


def _same_labelled(one: _Cases, other: _Cases) -> None:
    if one.labelled == other.labelled:
        return
    # A method that is prompted does not train on a labelled case that shows no structure; the fold is the same.
    told = one.data.get("labelled"), other.data.get("labelled")
    if None in told or told[0] != told[1]:
        raise _mismatch("trained on the labels of different cases", one, other, one.labelled, other.labelled)


def _all_labels(some: _Cases, every: _Cases) -> None:
    missing = some.labelled - every.labelled
    if missing and len(some.data) and some.data.get("train") == every.data.get("train"):
        return  # cases without a structure, as above
    if missing:
        raise ConfigurationError(
            f"{every.record.folder} should have trained on all labels, but lacks {few(sorted(missing))}, which "
            f"{some.record.folder} has. Train it again."
        )


def _same_data(one: _Cases, other: _Cases, parts: Sequence[str]) -> None:
    for part in parts:
        told = one.data.get(part), other.data.get(part)
        if None not in told and told[0] != told[1]:
            raise ConfigurationError(
                f"{one.record.folder} and {other.record.folder} cannot be compared: their {part!r} cases have the "
                f"hashes {told[0]} and {told[1]} in model.json. Was the cell planned anew between them? Move one away "
                "and run it again."
            )


def _mismatch(
    what: str, one: _Cases, other: _Cases, mine: frozenset[str], theirs: frozenset[str]
) -> ConfigurationError:
    return ConfigurationError(
        f"{one.record.folder} and {other.record.folder} {what} (hashes {hash_of(sorted(mine))} and "
        f"{hash_of(sorted(theirs))}; not in both: {few(sorted(mine ^ theirs))}), so they cannot be compared. Move "
        "one away and run it again."
    )
