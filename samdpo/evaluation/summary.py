"""A folder of predictions against a folder of truths -> ``summary.json`` in nnU-Net's form."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.dataset.agreement import onto_grid, read_listed_label
from samdpo.dataset.cases import label_files
from samdpo.dataset.dataset_json import DatasetJson, load_dataset_json
from samdpo.dataset.foreign import broken_links
from samdpo.dataset.volume import UNKNOWN_SPACING
from samdpo.errors import DatasetError, few
from samdpo.evaluation.doubt import measure_doubt
from samdpo.evaluation.metrics import METRICS, SurfaceUnit, evaluate_case
from samdpo.evaluation.presence import draw_presence, false_alarms, refuse_as_prediction
from samdpo.files import write_json
from samdpo.names import same_text
from samdpo.parallel import Workers, map_cases
from samdpo.schema import to_dict

log = logging.getLogger(__name__)
_LISTED = 20  # files named in an error; more are counted


def evaluate_folder(
    ref_folder: Path,
    pred_folder: Path,
    dataset_json: DatasetJson | Path,
    output: Path | None = None,
    processes: Workers = 1,
    chill: bool = False,
    tolerance: float | None = None,
    cases: Sequence[str] | None = None,
    voxels: bool = False,
    presence_figure: Path | None = None,
) -> dict[str, Any]:
    """Evaluate every reference of a folder against the prediction of the same name; write ``summary.json``.

    Args:
        ref_folder: true label maps.
        pred_folder: predicted label maps; more than there are references is no error, they are named in a warning.
        dataset_json: parsed, or the path of the file, whatever its name, or of the folder that holds ``dataset.json``.
        output: the JSON to write; default ``pred_folder/summary.json``.
        processes: cases evaluated at once, or an executor.
        chill: evaluate what is predicted instead of raising when predictions are missing (nnU-Net's flag).
        tolerance: of the surface Dice; by default 2 px in plain images, 2 voxels, or 1 mm elsewhere.
        cases: identifiers to evaluate, for example a fold's validation cases; by default every reference.
        voxels: measure surfaces in voxels, see :func:`samdpo.evaluation.metrics.voxel_surface_metrics`; always done
            where ``dataset_json`` says that the spacing is none (``samdpo.distances``).
        presence_figure: PNG or PDF to draw of what the presence threshold trades, from the reports beside predicted
            pictures; see :func:`samdpo.evaluation.presence.draw_presence`.

    Returns:
        what was written: ``foreground_mean`` (mean over structures), ``mean`` {label: metrics}, ``metric_per_case``
        as nnU-Net's, and ``samdpo`` with names of the labels, unit and tolerance of the surface metrics, and for each
        label how often it was found where it is absent, or missed (``presence``; with ``presence_figure`` also the
        ``thresholds`` drawn), and where at least ten predictions have reports how much of the error lies in the cases
        that these doubt most (``doubt``, see :func:`samdpo.evaluation.doubt.measure_doubt`). Means leave out NaN, and
        so does the foreground mean: a structure that no case has does not make it NaN.

    Raises:
        DatasetError: a folder is missing or empty, predictions are missing, a file holds values that ``dataset_json``
            does not list, or a prediction lies on another grid than its reference. One whose axes only run in another
            order or direction, over the same voxels of space, is brought to the reference's grid. Or there is nothing
            to draw in ``presence_figure``; the summary is written then.
    """
    ref_folder, pred_folder = Path(ref_folder), Path(pred_folder)
    dataset = dataset_json if isinstance(dataset_json, DatasetJson) else load_dataset_json(dataset_json)
    if presence_figure is not None:
        refuse_as_prediction(presence_figure, [ref_folder, pred_folder], dataset.file_ending)
    pairs = _pairs_to_evaluate(ref_folder, pred_folder, dataset.file_ending, chill, cases)
    voxels = voxels or dataset.distances == "voxels"
    jobs = [_Job(ref, pred, dataset, tolerance, voxels) for ref, pred in pairs]
    evaluated = list(map_cases(_evaluate, jobs, processes, "evaluating"))
    summary = summarize([entry for entry, _ in evaluated], dataset.structures, [unit for _, unit in evaluated])
    write_json(output or pred_folder / "summary.json", summary)
    if presence_figure is not None:
        curves = draw_presence(summary["metric_per_case"], dataset.structures, presence_figure)
        for name, points in curves.items():
            summary["samdpo"]["presence"][str(dataset.structures[name])]["thresholds"] = to_dict(points)
        write_json(output or pred_folder / "summary.json", summary)
    return summary


def summarize(
    cases: list[dict[str, Any]], structures: Mapping[str, int], units: list[SurfaceUnit] | None = None
) -> dict[str, Any]:
    """Means over ``metric_per_case`` entries, in nnU-Net's form; labels are texts, as JSON has them.

    Args:
        cases: entries {reference_file, prediction_file, metrics: {label: {metric: number}}}; labels int or text.
            Reports beside the predictions are read too.
        structures: name -> label.
        units: of the surface metrics of each case; recorded once where they agree.
    """
    cases = [{**case, "metrics": {str(k): v for k, v in case["metrics"].items()}} for case in cases]
    labels = [str(label) for label in structures.values()]
    mean = {
        label: {m: _nanmean([case["metrics"][label][m] for case in cases]) for m in METRICS} for label in labels
    }
    foreground = {m: _nanmean([mean[label][m] for label in labels]) for m in METRICS}
    summary: dict[str, Any] = {"foreground_mean": foreground, "mean": mean, "metric_per_case": cases}
    extra: dict[str, Any] = {"labels": {str(label): name for name, label in structures.items()}}
    distinct = sorted({(u.name, u.tolerance) for u in units or []})
    extra["presence"] = {label: false_alarms(cases, label) for label in labels}
    extra["surface"] = [{"unit": name, "tolerance": tolerance} for name, tolerance in distinct]
    if (doubt := measure_doubt(cases)) is not None:
        extra["doubt"] = to_dict(doubt)
    return {**summary, "samdpo": extra}


@dataclass(frozen=True)
class _Job:
    ref: Path
    pred: Path
    dataset: DatasetJson
    tolerance: float | None
    voxels: bool

    @property
    def identifier(self) -> str:
        """What messages call it."""
        return self.pred.name


def _evaluate(job: _Job) -> tuple[dict[str, Any], SurfaceUnit]:
    ref, properties, pred, theirs = read_pair(job.ref, job.pred, job.dataset.labels)
    spacing = tuple(properties["spacing"])
    if spacing == UNKNOWN_SPACING:  # a stack of pictures: the prediction's report may say what the reference does not
        spacing = tuple(theirs["spacing"])
    metrics = evaluate_case(
        pred, ref, job.dataset.structures, spacing, ignore_label=job.dataset.ignore_label, tolerance=job.tolerance,
        voxels=job.voxels,
    )
    entry = {"reference_file": str(job.ref), "prediction_file": str(job.pred), "metrics": metrics}
    return entry, SurfaceUnit.of(spacing, job.tolerance, job.voxels)


def read_pair(
    ref: Path, pred: Path, labels: Mapping[str, int]
) -> tuple[np.ndarray, dict[str, Any], np.ndarray, dict[str, Any]]:
    """A reference and its prediction with their properties, (Z, Y, X) each, on the reference's grid.

    Raises:
        DatasetError: as of :func:`evaluate_folder`.
    """
    (truth, properties), (found, theirs) = (read_listed_label(file, labels) for file in (ref, pred))
    return truth, properties, onto_grid(ref, truth.shape, properties, pred, found, theirs), theirs


def _pairs_to_evaluate(
    ref_folder: Path, pred_folder: Path, ending: str, chill: bool, cases: Sequence[str] | None
) -> list[tuple[Path, Path]]:
    ref_files, pred_files = _files(ref_folder, ending), _files(pred_folder, ending)
    refs, preds = set(ref_files), set(pred_files)
    if cases is not None:
        wanted = {f"{same_text(case)}{ending}" for case in cases}
        if not wanted <= refs:
            raise DatasetError(
                f"{ref_folder} lacks the references {', '.join(sorted(wanted - refs)[:_LISTED])}. Were labels moved "
                "or renamed after preprocessing? Put them back, or preprocess again."
            )
        refs, preds = wanted, preds & wanted
    if not refs:
        raise DatasetError(f"{ref_folder} holds no file to compare with that ends in {ending}, the file_ending.")
    missing, both = sorted(refs - preds), sorted(refs & preds)
    if missing and not chill:
        raise DatasetError(
            f"{pred_folder} lacks the predictions of {len(missing)} of {len(refs)} references in {ref_folder}: "
            f"{few(missing, _LISTED)}. Predict them, or evaluate what there is with --chill."
        )
    if not both:
        raise DatasetError(
            f"{pred_folder} has no prediction for any of the {len(refs)} references in {ref_folder}; "
            f"a prediction is named as its reference, for example {min(refs)}."
        )
    if preds - refs:
        log.warning(
            "%d predictions in %s have no reference and are left out, for example %s.",
            len(preds - refs), pred_folder, min(preds - refs),
        )
    return [(ref_files[name], pred_files[name]) for name in both]


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Composed name with the ending as dataset.json writes it -> file, whose ending may be in upper case."""
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder. Give the folder of references, then that of predictions.")
    files, problems = label_files(folder, ending)
    problems += broken_links(folder)
    if problems:
        raise DatasetError("\n".join(problems[:_LISTED]))
    return {f"{name}{ending}": file for name, file in files.items()}


def _nanmean(values: list[float]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # mean of nothing but NaN is NaN, as intended
        return float(np.nanmean(values)) if values else float("nan")
