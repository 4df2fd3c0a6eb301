"""Several models' probabilities of the same images averaged: ``samdpo_ensemble -i FOLDER FOLDER … -o OUT``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.dataset.agreement import grids_problem, read_listed_label
from samdpo.errors import ConfigurationError, DatasetError, few
from samdpo.files import DAMAGED_NPZ, copy_file, write_json
from samdpo.model.export import DICOM_RESULT_ENDING, write_prediction
from samdpo.model.masks import confidence_of, keep_largest_components, label_map
from samdpo.model.predictor import Prediction
from samdpo.names import as_spelled, same_text
from samdpo.parallel import map_cases
from samdpo.plans import Plans, load_plans
from samdpo.schema import read_checked

log = logging.getLogger(__name__)

_LISTED = 10  # cases named in an error; more are counted
_ANOTHER_CUT = 0.5  # of a prediction without a report
REMEDY = "Predict with: samdpo_predict … --save_probabilities"


def ensemble_folders(
    folders: Sequence[Path], output: Path, save_probabilities: bool = False, processes: int = 1
) -> list[Path]:
    """Average what ``samdpo_predict --save_probabilities`` wrote for several models; returns the masks written.

    Raises:
        ConfigurationError: fewer than two folders, one that is missing, or ``output`` among them.
        DatasetError: the folders differ in cases, shapes or structures, or a file cannot be read.
    """
    plans = _common_plans(folders, output)
    cases = _common_cases(folders, plans)
    output.mkdir(parents=True, exist_ok=True)
    work = partial(_ensemble_case, tuple(folders), output, plans, save_probabilities)
    results = list(map_cases(work, cases, processes, "averaging"))
    for name in ("plans.json", "dataset.json"):
        if (folders[0] / name).is_file():
            copy_file(folders[0] / name, output / name)
    flagged = [result.case for result in results if result.look_at]
    write_json(output / "ensemble_args.json", {"input": list(folders), "look_at": flagged})
    log.info("%d cases of %d folders averaged and written to %s.", len(results), len(folders), output)
    if flagged:
        log.info("A person should look at %d of them: %s. The reasons are in their .json files.", len(flagged),
                 ", ".join(flagged[:_LISTED]) + (" …" if len(flagged) > _LISTED else ""))
    return [result.mask for result in results]


def average_case(folders: Sequence[Path], case: str, plans: Plans, ending: str) -> Prediction:
    """One case: mean probability of each structure, cut at the mean of the members' cuts as each member's is.

    Args:
        folders: with ``case.npz`` (``probabilities`` (1 + L, Z, Y, X), background first), the mask that gives the
            geometry, and the report.
        case: identifier.
        plans: order and labels of the structures; of which of them the largest part is kept.
        ending: of the masks.

    Raises:
        DatasetError: a file is missing or damaged, or shapes differ.
    """
    labels = {"background": 0, **{name: structure.label for name, structure in plans.structures.items()}}
    first = as_spelled(folders[0] / f"{case}{ending}")
    mask, properties = read_listed_label(first, labels)
    _refuse_other_grids(first, mask.shape, properties, [as_spelled(f / f"{case}{ending}") for f in folders[1:]], labels)
    expected = (len(plans.structures), *mask.shape)
    total = np.zeros(expected, np.float32)
    for folder in folders:
        total += _foreground(as_spelled(folder / f"{case}.npz"), expected)  # in place: those of a volume are gigabytes
    total /= len(folders)
    reports = [_report_of(as_spelled(folder / f"{case}.json")) for folder in folders]
    _refuse_other_images(folders, case, reports)
    cut = float(np.mean([report.get("mask_cut", _ANOTHER_CUT) for report in reports]))
    segmentation = label_map(total, cut, [structure.label for structure in plans.structures.values()])
    keep_largest_components(segmentation, [plans.structures[n].label for n in plans.inference.largest_component])
    structures: dict[str, Any] = {}
    for (name, structure), probabilities in zip(plans.structures.items(), total):
        pixels = int((segmentation == structure.label).sum())
        structures[name] = {"confidence": round(confidence_of(probabilities, cut), 4), "pixels": pixels}
        if len(mask) > 1:
            structures[name]["volume_ml"] = pixels * float(np.prod(properties["spacing"])) / 1000
    reasons = [f"{folder.name}: {why}" for folder, of in zip(folders, reports) for why in of.get("reasons", ())]
    report = {"structures": structures, "look_at": bool(reasons), "reasons": reasons, "mask_cut": cut,
              "averaged": [str(folder) for folder in folders]}
    return Prediction(segmentation, total, report, properties)


def _refuse_other_grids(
    first: Path, shape: tuple[int, ...], properties: dict[str, Any], others: Sequence[Path], labels: dict[str, int]
) -> None:
    """Probabilities have no geometry; that of the masks beside them must be one."""
    for other in others:
        if not other.is_file():
            continue
        values, theirs = read_listed_label(other, labels)
        problem = grids_problem(first, shape, properties, other, values.shape, theirs, "mask of another model")
        if problem:
            raise DatasetError(f"{problem} Only predictions of the same images can be averaged.")


def _refuse_other_images(folders: Sequence[Path], case: str, reports: Sequence[dict[str, Any]]) -> None:
    known = [(folder, report["input_hash"]) for folder, report in zip(folders, reports) if report.get("input_hash")]
    for folder, found in known[1:]:
        if found != known[0][1]:
            raise DatasetError(f"{folder} and {known[0][0]} hold predictions of {case}, but of images of different "
                               "content. Predict the same images with every model.")


@dataclass(frozen=True)
class _Report:
    """The keys of a case's report that are read."""

    mask_cut: float = _ANOTHER_CUT
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Averaged:
    case: str
    mask: Path
    look_at: bool


def _ensemble_case(
    folders: Sequence[Path], output: Path, plans: Plans, save_probabilities: bool, case: str
) -> _Averaged:
    # The mask of a DICOM series is .nii.gz whatever ending the dataset has.
    endings = [e for e in (plans.file_ending, DICOM_RESULT_ENDING) if as_spelled(folders[0] / f"{case}{e}").is_file()]
    if not endings:
        raise DatasetError(f"{folders[0]} has {case}.npz but no mask {case}{plans.file_ending}, which gives the "
                           f"geometry. {REMEDY}")
    prediction = average_case(folders, case, plans, endings[0])
    written = write_prediction(prediction, output, case, replace(plans, file_ending=endings[0]), save_probabilities)
    return _Averaged(case, written, prediction.report["look_at"])


def _foreground(file: Path, expected: tuple[int, ...]) -> np.ndarray:
    """(L, Z, Y, X) of a file of probabilities."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            probabilities = stored["probabilities"]
    except FileNotFoundError as error:
        raise DatasetError(f"{file} is missing. {REMEDY}") from error
    except DAMAGED_NPZ as error:
        raise DatasetError(f"{file} cannot be read as probabilities ({error}); it may be cut off. {REMEDY}") from error
    if probabilities.shape != (expected[0] + 1, *expected[1:]):
        raise DatasetError(
            f"{file} holds probabilities of shape {probabilities.shape}; expected {(expected[0] + 1, *expected[1:])}: "
            "background and each structure, by slices, rows and columns of the first folder's mask. Are these "
            "predictions of the same images?"
        )
    return probabilities[1:]


def _report_of(file: Path) -> dict[str, Any]:
    return read_checked(_Report, file, error=DatasetError, remedy=REMEDY) if file.is_file() else {}


def _common_plans(folders: Sequence[Path], output: Path) -> Plans:
    """The first folder's plan, once all have its structures; keeps the largest part where all of them do."""
    if len(folders) < 2:
        raise ConfigurationError("An ensemble needs two folders or more: samdpo_ensemble -i FOLDER FOLDER -o OUT")
    for folder in folders:
        if not folder.is_dir():
            raise ConfigurationError(f"-i {folder} is not a folder. {REMEDY}")
        if folder.resolve() == output.resolve():
            raise ConfigurationError(f"-o {output} is one of the folders to average; choose another, so that nothing "
                                     "is overwritten.")
        if not (folder / "plans.json").is_file():
            raise ConfigurationError(f"{folder / 'plans.json'} is missing, which samdpo_predict writes beside its "
                                     f"masks. {REMEDY}")
    plans = [load_plans(folder / "plans.json") for folder in folders]
    labels = [{name: structure.label for name, structure in of.structures.items()} for of in plans]
    for folder, own in zip(folders, labels):
        if list(own.items()) != list(labels[0].items()):
            raise DatasetError(f"{folders[0]} has the structures {labels[0]}, but {folder} has {own}. Only models of "
                               "the same structures can be averaged.")
    return with_common_clean_up(plans)


def with_common_clean_up(plans: Sequence[Plans]) -> Plans:
    """The first plan; the largest part alone is kept of structures of which every plan keeps it."""
    common = set.intersection(*(set(of.inference.largest_component) for of in plans))
    inference = plans[0].inference
    kept = tuple(name for name in inference.largest_component if name in common)
    return replace(plans[0], inference=replace(inference, largest_component=kept))


def _common_cases(folders: Sequence[Path], plans: Plans) -> list[str]:
    """Identifiers of the cases, once every folder has all of them with probabilities."""
    endings = (".npz", plans.file_ending, DICOM_RESULT_ENDING)
    seen = [
        {same_text(f.name.removesuffix(e)) for e in endings for f in folder.glob(f"[!.]*{e}")} for folder in folders
    ]
    every = sorted(set.union(*seen))
    if not every:
        raise DatasetError(f"{folders[0]} holds no prediction. {REMEDY}")
    for folder in folders:
        lacking = [case for case in every if not as_spelled(folder / f"{case}.npz").is_file()]
        if lacking:
            raise DatasetError(
                f"{folder} lacks the probabilities (.npz) of {len(lacking)} of {len(every)} cases: "
                f"{few(lacking, _LISTED)}. Predict the same images with every model. {REMEDY}"
            )
    return every
