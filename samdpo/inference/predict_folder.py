"""Predict a folder of images: ``samdpo_predict -i IN -o OUT``."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from samdpo.dataset.cases import Case, find_inputs
from samdpo.dataset.dicom import is_series
from samdpo.dataset.foreign import broken_link
from samdpo.dataset.images import spacing_file
from samdpo.errors import ConfigurationError, DatasetError, ModelFolderError, SamdpoError
from samdpo.files import content_hash, copy_file, hash_of, read_json, remove_abandoned, sha256_of_file, write_json
from samdpo.model.description import PREDICTED_WITH
from samdpo.model.dicom_seg import check_dicom_seg
from samdpo.model.export import DICOM_RESULT_ENDING, write_prediction
from samdpo.model.folder import read_plans, trained_folds
from samdpo.model.predictor import Predictor
from samdpo.networks.device import saying_what_to_make_smaller
from samdpo.parallel import Executor, kept_for, map_cases
from samdpo.paths import number_of
from samdpo.plan_sections import LATER_PROMPTING_KEYS
from samdpo.plans import Plans
from samdpo.schema import as_before, to_dict

log = logging.getLogger(__name__)

ARGUMENTS_FILE = "predict_from_raw_data_args.json"
_LISTED = 20  # images named in an error; more are counted


@dataclass(frozen=True)
class _Settings:
    """What a process needs to know beside the case; small, since it is sent."""

    model: Path
    folds: tuple[str, ...] | None
    checkpoint: str
    device: str
    mirror: bool
    output: Path
    save_probabilities: bool
    dicom_seg: bool
    trainer: str | None
    made_by: str = ""  # see made_by


@dataclass(frozen=True)
class _Outcome:
    """Of a case: its mask and whether a person should look at it, or why there is none."""

    mask: Path | None
    look_at: bool = False
    problem: str = ""


def predict_folder(
    source: Path,
    output: Path,
    model: Path,
    folds: Sequence[str] | None = None,
    checkpoint: str = "checkpoint_final",
    device: str = "auto",
    save_probabilities: bool = False,
    continue_prediction: bool = False,
    mirror: bool = True,
    dicom_seg: bool = False,
    num_parts: int = 1,
    part_id: int = 0,
    executor: Executor | None = None,
    trainer: str | None = None,
) -> list[Path]:
    """Predict every case of ``source``, a folder or one image; returns the masks written.

    ``source`` may also be a DICOM series, or a folder with one sub-folder a series; ``dicom_seg`` then writes
    ``case.dcm`` beside ``case.nii.gz``. DICOM headers are checked before anything is predicted. A case that
    cannot be read, and an image that belongs to no case, is named at the end and does not stop the others.

    Of ``num_parts`` parts only the cases of ``part_id``, 0 to ``num_parts`` - 1, are predicted: every ``num_parts``-th
    of the sorted cases, as in nnU-Net. Several parts may write into one folder at the same time.

    With ``continue_prediction`` masks that this model made of these very images, in the same way, are kept. With an
    ``executor`` its processes predict, each with a model that it loads once; else this process does.
    ``trainer`` is as for :meth:`Predictor.from_model_folder`.

    Raises:
        ConfigurationError: ``source`` does not exist, or is ``output``; ``dicom_seg`` for images that are not DICOM;
            there is no such part; ``continue_prediction`` where masks are of another model or of unknown origin.
        DatasetError: no image in ``source``, a DICOM series that is not whole, or some cases could not be predicted or
            some images were left out.
    """
    _check_part(num_parts, part_id)
    if not source.exists():
        raise ConfigurationError(
            broken_link(source) or f"-i {source} does not exist; expected a folder with images like case_0000.png."
        )
    if source.resolve() == output.resolve():
        raise ConfigurationError(f"-o {output} is the input folder; choose another, so that nothing is overwritten.")
    if output.exists() and not output.is_dir():
        raise ConfigurationError(f"-o {output} is a file; name a folder for the masks.")
    averaged = tuple(dict.fromkeys(map(str, folds))) if folds else None  # one that is named twice counts once
    settings = _Settings(
        model.resolve(), averaged, checkpoint, device, mirror, output.resolve(), save_probabilities, dicom_seg,
        trainer,
    )
    # Here a model that cannot be loaded is told before any image is read; other processes load it themselves.
    predictor = None if executor else _load(settings)
    plans = read_plans(model) if predictor is None else predictor.plans
    found = find_inputs(source.resolve() if executor else source, None, len(plans.preprocessing.normalization),
                        plans.training_images.files_per_case, output)
    cases = found.cases[part_id::num_parts]
    dicom = is_series(found.cases[0].images)
    if dicom_seg and not dicom:
        raise ConfigurationError(f"--dicom_seg refers to DICOM images, but {found.cases[0].images[0]} is none. Leave "
                                 "the flag out, or name the folder of a DICOM series.")
    if dicom_seg:
        check_dicom_seg([c.images[0] for c in cases], plans.structures)
    settings = replace(settings, made_by=made_by(model, plans, settings.folds, checkpoint, mirror))
    asked = {
        "input": source, "model": model.name, "folds": settings.folds, "checkpoint": checkpoint, "mirror": mirror,
        "dicom_seg": dicom_seg, "save_probabilities": save_probabilities, "made_by": settings.made_by,
        **({"num_parts": num_parts, "part_id": part_id} if num_parts > 1 else {}),
    }
    arguments = output / arguments_file(num_parts, part_id)
    ending = DICOM_RESULT_ENDING if dicom else plans.file_ending
    endings = [ending, *([".dcm"] if dicom_seg else []), *([".npz"] if save_probabilities else [])]
    done = _kept_cases(cases, output, endings, asked, arguments) if continue_prediction else {}
    todo, started = [c for c in cases if c.identifier not in done], time.perf_counter()
    flagged = [case for case, look_at in done.items() if look_at]
    output.mkdir(parents=True, exist_ok=True)
    remove_abandoned(output)
    # At the start too: a run that is killed leaves word of what it was.
    write_json(arguments, {**asked, "finished": False, "look_at": sorted(flagged)})
    for name in ("plans.json", "dataset.json"):
        if (model / name).is_file():
            copy_file(model / name, output / name)  # another part may be reading or writing it
    if executor is None:
        outcomes = (_predict(predictor, settings, case) for case in tqdm(todo, desc="predict", unit="case"))
    else:
        outcomes = map_cases(partial(_predict_by_path, settings), todo, executor, "predict", per_process=1)
    written, failed = [], []
    for case, outcome in zip(todo, outcomes):
        if outcome.mask is None:
            failed.append(outcome.problem)
            continue
        written.append(output / outcome.mask.name)
        if outcome.look_at:
            flagged.append(case.identifier)
    write_json(arguments, {**asked, "finished": True, "look_at": sorted(flagged)})
    seconds = (time.perf_counter() - started) / max(len(written), 1)
    log.info("%d cases written to %s (%.2f s a case), %d were there already.", len(written), output, seconds, len(done))
    if flagged:
        log.info("A person should look at %d of them: %s. The reasons are in their .json files.", len(flagged),
                 ", ".join(sorted(flagged)[:10]) + (" …" if len(flagged) > 10 else ""))
    problems = [f"{len(failed)} cases could not be predicted:", *failed] if failed else []
    if found.left_out and part_id == 0:  # one part tells, as all see the same folder
        problems += [f"{len(found.left_out)} images of {source} were left out:", *found.left_out[:_LISTED]]
        if len(found.left_out) > _LISTED:
            problems.append(f"… and {len(found.left_out) - _LISTED} more.")
    if problems:
        raise DatasetError("\n  ".join(problems))
    return written


def made_by(model: Path, plans: Plans, folds: Sequence[str] | None, checkpoint: str, mirror: bool) -> str:
    """A hash of all that a mask depends on beside its image: plan, folds with their weights, prompters and settings.

    Where the model folder lies, and what it is called, is no part of it.

    Args:
        model: the model's folder.
        plans: of the model.
        folds: to average over; None for all that are trained.
        checkpoint: name of the weights.
        mirror: whether the mirror image is asked too.
    """
    weights = f"{checkpoint.removesuffix('.safetensors')}.safetensors"
    rules = {**to_dict(plans), "prompting": as_before(plans.prompting, *LATER_PROMPTING_KEYS)}
    parts = [(name, hash_of(rules[name])) for name in PREDICTED_WITH]
    for fold in sorted(set(folds or trained_folds(model, weights))):
        place = model / f"fold_{fold}"
        prompter = sorted(f for f in (place / "prompter").rglob("*") if f.is_file() and not f.name.startswith("."))
        for file in (place / weights, place / "model.json", *prompter):
            # What is missing is told by whoever loads the fold.
            content = content_hash(file) if file.is_file() else ""
            parts.append((f"{fold}/{file.relative_to(place).as_posix()}", content))
    return hash_of(parts, weights, mirror)


def _input_hash(case: Case) -> str:
    """Of the content of a case's files, the spacing beside a stack included; names are no part of it."""
    files: list[Path | None] = []
    for image in case.images:
        files += sorted(image.rglob("[!.]*")) if image.is_dir() else [image, spacing_file(image)]
    return hash_of([sha256_of_file(file) for file in files if file is not None and file.is_file()])


def _kept_cases(
    cases: Sequence[Case], output: Path, endings: Sequence[str], asked: Mapping[str, Any], arguments: Path
) -> dict[str, bool]:
    """Cases whose masks are there and would be made again just so, and whether a person should look at them.

    Args:
        cases: of this run.
        output: folder of the masks.
        endings: of the files that a whole case has; the mask's is the first.
        asked: of this run, as the file of arguments keeps it.
        arguments: that file.

    Raises:
        ConfigurationError: masks that another model made, or of which nobody knows who made them.
    """
    there = {f.name for f in output.iterdir() if f.is_file()} if output.is_dir() else set()
    before = _asked_before(output, arguments)
    overwriting = any(b.get("made_by") == asked["made_by"] and b.get("finished") is False for b in before[:1])
    kept: dict[str, bool] = {}
    others: dict[str, list[str]] = {}  # who made them -> masks
    changed = 0
    for case in cases:
        mask = f"{case.identifier}{endings[0]}"
        if mask not in there:
            continue
        report = _report(output / f"{case.identifier}.json")
        if report is None:
            others.setdefault("of unknown origin: they have no report", []).append(mask)
        elif report.get("made_by", "") not in ("", asked["made_by"]):
            others.setdefault("made by another model, or by other folds or settings of this one", []).append(mask)
        elif "made_by" not in report and not any(_is_same(one, asked) for one in before):
            # A report of an older version: what was asked then is all that there is to compare.
            names = {str(one.get("model")) for one in before} or {"unknown origin"}
            others.setdefault(f"made by {', '.join(sorted(names))}", []).append(mask)
        elif not all(f"{case.identifier}{ending}" in there for ending in endings):
            continue
        elif report.get("input_hash", None) not in (None, _hash_if_readable(case)):
            changed += 1
        else:
            kept[case.identifier] = bool(report.get("look_at"))
    if others and not overwriting:
        listing = "; ".join(
            f"{len(masks)} masks are {who} ({', '.join(masks[:3])}{' …' if len(masks) > 3 else ''})"
            for who, masks in others.items()
        )
        raise ConfigurationError(
            f"--continue_prediction: in {output} {listing}. They would be taken for masks of {asked['model']}. Choose "
            "another folder with -o, or leave out --continue_prediction to predict them anew."
        )
    if changed:
        log.info("%d images are no longer those that their masks were made of: they are predicted again.", changed)
    return kept


def _asked_before(output: Path, own: Path) -> list[dict[str, Any]]:
    """What earlier runs into this folder were asked for, that of this part first."""
    files = sorted(output.glob(ARGUMENTS_FILE.replace(".json", "*.json")), key=lambda file: (file != own, file.name))
    contents = [_report(file) for file in files]
    return [content for content in contents if content is not None]


def _is_same(before: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a run of a version that kept no hash was asked for the same."""
    return all(before.get(key) == asked[key] for key in ("model", "checkpoint", "mirror")) and (
        (before.get("folds") or None) == (list(asked["folds"]) if asked["folds"] else None)
    )


def _report(file: Path) -> dict[str, Any] | None:
    """The content of one of our JSON files; None where there is none."""
    if not file.is_file():
        return None
    try:
        content = read_json(file)
    except ConfigurationError:
        return None
    return content if isinstance(content, dict) and ("look_at" in content) else None


def _hash_if_readable(case: Case) -> str:
    """As :func:`_input_hash`; "" where a file cannot be read."""
    try:
        return _input_hash(case)
    except OSError:  # told when it is predicted
        return ""


def refuse_another_model(model: Path, dataset: str | None, plans_name: str | None, stage: str | None) -> None:
    """What is typed beside ``-m`` must be said of that model, since the folder alone is what is used.

    Raises:
        ConfigurationError: it is of another dataset, plan or stage.
    """
    plans = read_plans(model)
    stages = {_report_or_nothing(file).get("stage") for file in sorted(model.glob("fold_*/model.json"))} - {None}
    number = str(number_of(plans.dataset_name))
    of_model = {
        "-d": (dataset, {plans.dataset_name, number}, plans.dataset_name),
        "-p": (plans_name, {plans.plans_name}, plans.plans_name),
        "-c": (stage, stages or {stage}, ", ".join(sorted(map(str, stages)))),
    }
    for flag, (asked, fitting, what) in of_model.items():
        if asked is not None and not {asked, str(int(asked)) if asked.isdecimal() else asked} & fitting:
            raise ConfigurationError(f"{flag} {asked} is given, but -m {model} is a model of {what}. Leave {flag} out, "
                                     "or name the model that is meant.")


def _report_or_nothing(file: Path) -> dict[str, Any]:
    content = read_json(file, error=ModelFolderError)
    return content if isinstance(content, dict) else {}


def arguments_file(num_parts: int = 1, part_id: int = 0) -> str:
    """Name of the file in the output folder that keeps what was asked for; each part has its own."""
    if num_parts == 1:
        return ARGUMENTS_FILE
    return ARGUMENTS_FILE.replace(".json", f"_part_{part_id}_of_{num_parts}.json")


def _check_part(num_parts: int, part_id: int) -> None:
    if num_parts < 1:
        raise ConfigurationError(f"-num_parts is {num_parts}; expected 1 or more.")
    if not 0 <= part_id < num_parts:
        raise ConfigurationError(
            f"-part_id is {part_id}; expected {'0' if num_parts == 1 else f'0 to {num_parts - 1}'}, since -num_parts "
            f"is {num_parts}."
        )


def _load(settings: _Settings) -> Predictor:
    return Predictor.from_model_folder(
        settings.model, settings.folds, settings.checkpoint, settings.device, settings.mirror, settings.trainer
    )


def _of_memory(predictor: Predictor, model: Path, case: Case) -> tuple[str, str]:
    """Where memory ran out, and what to type."""
    if not predictor.sees_batches:
        return (f"at {case.identifier}, whose volume lies in memory as a whole", "Take a machine with more memory, or "
                "another device with -device.")
    return (f"at {case.identifier}, with inference_batch_size={predictor.batch_size}",
            f"Lower 'inference_batch_size' in {model / 'plans.json'} where it is above 1, or take another device with "
            "-device.")


def _predict(predictor: Predictor, settings: _Settings, case: Case) -> _Outcome:
    try:
        origin = {"made_by": settings.made_by, "input_hash": _hash_if_readable(case)}
        with saying_what_to_make_smaller(*_of_memory(predictor, settings.model, case)):
            predictor.set_image(case.images)
            prediction = predictor.predict(keep_probabilities=settings.save_probabilities)
        mask = write_prediction(
            prediction, settings.output, case.identifier, predictor.plans, settings.save_probabilities,
            settings.dicom_seg, origin,
        )
    except ConfigurationError:  # the output folder is full or cannot be written: the next case fails as well
        raise
    except SamdpoError as error:
        return _Outcome(None, problem=str(error))
    return _Outcome(mask, prediction.report["look_at"])



def _predict_by_path(settings: _Settings, case: Case) -> _Outcome:
    """In another process: the case is read, predicted and written there."""
    with kept_for(settings, _load) as predictor:
        return _predict(predictor, settings, case)
