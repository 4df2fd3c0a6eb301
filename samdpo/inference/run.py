"""Predict a folder of images: ``samdpo_predict -i IN -o OUT``."""

from __future__ import annotations

import functools
import logging
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from samdpo.dataset.cases import Case, input_cases
from samdpo.dataset.dicom import is_series
from samdpo.errors import ConfigurationError, DatasetError, SamdpoError
from samdpo.files import atomic_path, write_json
from samdpo.inference.dicom_seg import check_dicom_seg
from samdpo.inference.export import DICOM_RESULT_ENDING, write_prediction
from samdpo.inference.model_folder import read_plans
from samdpo.inference.predictor import Predictor
from samdpo.parallel import Executor, map_cases

log = logging.getLogger(__name__)

ARGUMENTS_FILE = "predict_from_raw_data_args.json"


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
    cannot be read is named at the end and does not stop the others.

    Of ``num_parts`` parts only the cases of ``part_id``, 0 to ``num_parts`` - 1, are predicted: every ``num_parts``-th
    of the sorted cases, as in nnU-Net. Several parts may write into one folder at the same time.

    With an ``executor`` its processes predict, each with a model that it loads once; else this process does.
    ``trainer`` is as for :meth:`Predictor.from_model_folder`.

    Raises:
        ConfigurationError: ``source`` does not exist, or is ``output``; ``dicom_seg`` for images that are not DICOM;
            there is no such part.
        DatasetError: no image in ``source``, a DICOM series that is not whole, or some cases could not be predicted.
    """
    _check_part(num_parts, part_id)
    if not source.exists():
        raise ConfigurationError(f"-i {source} does not exist; expected a folder with images like case_0000.png.")
    if source.resolve() == output.resolve():
        raise ConfigurationError(f"-o {output} is the input folder; choose another, so that nothing is overwritten.")
    settings = _Settings(
        model.resolve(), tuple(folds) if folds else None, checkpoint, device, mirror, output.resolve(),
        save_probabilities, dicom_seg, trainer,
    )
    # Here a model that cannot be loaded is told before any image is read; other processes load it themselves.
    predictor = None if executor else _load(settings)
    plans = read_plans(model) if predictor is None else predictor.plans
    every = input_cases(source.resolve() if executor else source, None, len(plans.preprocessing.normalization))
    cases = every[part_id::num_parts]
    dicom = is_series(every[0].images)
    if dicom_seg and not dicom:
        raise ConfigurationError(f"--dicom_seg refers to DICOM images, but {every[0].images[0]} is none. Leave the "
                                 "flag out, or name the folder of a DICOM series.")
    if dicom_seg:
        check_dicom_seg([c.images[0] for c in cases], plans.structures)
    output.mkdir(parents=True, exist_ok=True)
    there = {f.name for f in output.iterdir()} if continue_prediction else set()
    endings = [DICOM_RESULT_ENDING if dicom else plans.file_ending, *([".dcm"] if dicom_seg else [])]
    done = {c.identifier for c in cases if all(f"{c.identifier}{ending}" in there for ending in endings)}
    todo, started = [c for c in cases if c.identifier not in done], time.perf_counter()
    if executor is None:
        outcomes = (_predict(predictor, settings, case) for case in tqdm(todo, desc="predict", unit="case"))
    else:
        outcomes = map_cases(partial(_predict_by_path, settings), todo, executor, "predict", per_process=1)
    written, failed, flagged = [], [], []
    for case, outcome in zip(todo, outcomes):
        if outcome.mask is None:
            failed.append(outcome.problem)
            continue
        written.append(output / outcome.mask.name)
        if outcome.look_at:
            flagged.append(case.identifier)
    for name in ("plans.json", "dataset.json"):
        if (model / name).is_file():
            with atomic_path(output / name) as temporary:  # another part may be reading or writing it
                shutil.copyfile(model / name, temporary)
    part = {"num_parts": num_parts, "part_id": part_id} if num_parts > 1 else {}
    write_json(output / arguments_file(num_parts, part_id), {
        "input": source, "model": model.name, "folds": folds, "checkpoint": checkpoint, "mirror": mirror,
        "dicom_seg": dicom_seg, **part, "look_at": sorted(flagged)})
    seconds = (time.perf_counter() - started) / max(len(written), 1)
    log.info("%d cases written to %s (%.2f s a case), %d were there already.", len(written), output, seconds, len(done))
    if flagged:
        log.info("A person should look at %d of them: %s. The reasons are in their .json files.", len(flagged),
                 ", ".join(sorted(flagged)[:10]) + (" …" if len(flagged) > 10 else ""))
    if failed:
        raise DatasetError(f"{len(failed)} cases could not be predicted:\n  " + "\n  ".join(failed))
    return written


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


def _predict(predictor: Predictor, settings: _Settings, case: Case) -> _Outcome:
    try:
        predictor.set_image(case.images)
        prediction = predictor.predict(keep_probabilities=settings.save_probabilities)
        mask = write_prediction(
            prediction, settings.output, case.identifier, predictor.plans, settings.save_probabilities,
            settings.dicom_seg,
        )
    except ConfigurationError:  # the output folder is full or cannot be written: the next case fails as well
        raise
    except SamdpoError as error:
        return _Outcome(None, problem=str(error))
    return _Outcome(mask, prediction.report["look_at"])


_kept = functools.lru_cache(maxsize=1)(_load)  # of a process that predicts many cases
_ONE_AT_A_TIME = threading.Lock()  # a worker may have several threads, but one model and one card


def _predict_by_path(settings: _Settings, case: Case) -> _Outcome:
    """In another process: the case is read, predicted and written there."""
    with _ONE_AT_A_TIME:
        return _predict(_kept(settings), settings, case)
