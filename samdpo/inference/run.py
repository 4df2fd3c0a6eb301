"""Predict a folder of images: ``samdpo_predict -i IN -o OUT``."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from samdpo.dataset.cases import input_cases
from samdpo.dataset.dicom import is_series
from samdpo.errors import ConfigurationError, DatasetError, SamdpoError
from samdpo.files import write_json
from samdpo.inference.dicom_seg import check_dicom_seg
from samdpo.inference.export import DICOM_RESULT_ENDING, write_prediction
from samdpo.inference.predictor import Predictor

log = logging.getLogger(__name__)


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
) -> list[Path]:
    """Predict every case of ``source``, a folder or one image; returns the masks written.

    ``source`` may also be a DICOM series, or a folder with one sub-folder a series; ``dicom_seg`` then writes
    ``case.dcm`` beside ``case.nii.gz``. DICOM headers are checked before anything is predicted. A case that
    cannot be read is named at the end and does not stop the others.

    Raises:
        ConfigurationError: ``source`` does not exist, or is ``output``; ``dicom_seg`` for images that are not DICOM.
        DatasetError: no image in ``source``, a DICOM series that is not whole, or some cases could not be predicted.
    """
    if not source.exists():
        raise ConfigurationError(f"-i {source} does not exist; expected a folder with images like case_0000.png.")
    if source.resolve() == output.resolve():
        raise ConfigurationError(f"-o {output} is the input folder; choose another, so that nothing is overwritten.")
    predictor = Predictor.from_model_folder(model, folds, checkpoint, device, mirror)
    plans = predictor.plans
    cases = input_cases(source, None, len(plans.preprocessing.normalization))
    dicom = is_series(cases[0].images)
    if dicom_seg and not dicom:
        raise ConfigurationError(f"--dicom_seg refers to DICOM images, but {cases[0].images[0]} is none. Leave the "
                                 "flag out, or name the folder of a DICOM series.")
    if dicom_seg:
        check_dicom_seg([c.images[0] for c in cases], plans.structures)
    output.mkdir(parents=True, exist_ok=True)
    there = {f.name for f in output.iterdir()} if continue_prediction else set()
    endings = [DICOM_RESULT_ENDING if dicom else plans.file_ending, *([".dcm"] if dicom_seg else [])]
    done = {c.identifier for c in cases if all(f"{c.identifier}{ending}" in there for ending in endings)}
    written, failed, flagged, started = [], [], [], time.perf_counter()
    for case in tqdm([c for c in cases if c.identifier not in done], desc="predict", unit="case"):
        try:
            predictor.set_image(case.images)
            prediction = predictor.predict(keep_probabilities=save_probabilities)
            mask = write_prediction(prediction, output, case.identifier, plans, save_probabilities, dicom_seg)
        except ConfigurationError:  # the output folder is full or cannot be written: the next case fails as well
            raise
        except SamdpoError as error:
            failed.append(str(error))
            continue
        written.append(mask)
        if prediction.report["look_at"]:
            flagged.append(case.identifier)
    for name in ("plans.json", "dataset.json"):
        if (model / name).is_file():
            shutil.copyfile(model / name, output / name)
    write_json(output / "predict_from_raw_data_args.json", {
        "input": source, "model": model.name, "folds": folds, "checkpoint": checkpoint, "mirror": mirror,
        "dicom_seg": dicom_seg, "look_at": sorted(flagged)})
    seconds = (time.perf_counter() - started) / max(len(written), 1)
    log.info("%d cases written to %s (%.2f s a case), %d were there already.", len(written), output, seconds, len(done))
    if flagged:
        log.info("A person should look at %d of them: %s. The reasons are in their .json files.", len(flagged),
                 ", ".join(sorted(flagged)[:10]) + (" …" if len(flagged) > 10 else ""))
    if failed:
        raise DatasetError(f"{len(failed)} cases could not be predicted:\n  " + "\n  ".join(failed))
    return written
