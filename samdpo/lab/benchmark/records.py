"""What is known of one run: where it lies, how it scored, what it cost, which cases it had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from samdpo.errors import ConfigurationError
from samdpo.files import read_json, write_json

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
        judgement_bits: likewise for one unlabelled image, over the whole training; 0 where nobody is asked.
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
    labelled_hash: str | None = None
    val_hash: str | None = None
    reason: str = ""

    @property
    def done(self) -> bool:
        """Whether it has scores."""
        return self.status == "done"

    @property
    def group(self) -> tuple[str, float, float | None]:
        """Runs of one dataset and amount of labels, which a table compares: (dataset, labelled, unlabelled)."""
        return self.dataset, self.labelled, self.unlabelled

    def to_json(self, root: Path) -> dict[str, Any]:
        """As JSON has it: paths as they are below ``root``, the benchmark's folder, so that it may be moved."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**content, **{name: _below(content[name], root) for name in ("folder", "summary")}}

    @classmethod
    def from_json(cls, content: dict[str, Any], root: Path) -> Record:
        """The inverse of :meth:`to_json`."""
        record = cls(**content)
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
