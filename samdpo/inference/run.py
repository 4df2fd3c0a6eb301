"""Predict a folder of images: ``samdpo_predict -i IN -o OUT``."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from samdpo.dataset.cases import input_cases
from samdpo.errors import ConfigurationError, DatasetError, SamdpoError
from samdpo.files import write_json
from samdpo.inference.export import write_prediction
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
) -> list[Path]:
    """Predict every case of ``source``, a folder or one image; returns the masks written.

    A case that cannot be read is named at the end and does not stop the others.

    Raises:
        ConfigurationError: ``source`` does not exist, or is ``output``.
        DatasetError: no image in ``source``, or some cases could not be predicted.
    """
    if not source.exists():
        raise ConfigurationError(f"-i {source} does not exist; expected a folder with images like case_0000.png.")
    if source.resolve() == output.resolve():
        raise ConfigurationError(f"-o {output} is the input folder; choose another, so that nothing is overwritten.")
    predictor = Predictor.from_model_folder(model, folds, checkpoint, device, mirror)
    plans = predictor.plans
    cases = input_cases(source, None, len(plans.preprocessing.normalization))
    output.mkdir(parents=True, exist_ok=True)
    there = {f.name for f in output.iterdir()} if continue_prediction else set()
    done = {c.identifier for c in cases if f"{c.identifier}{plans.file_ending}" in there}
    written, failed, flagged, started = [], [], [], time.perf_counter()
    for case in tqdm([c for c in cases if c.identifier not in done], desc="predict", unit="case"):
        try:
            predictor.set_image(case.images)
            prediction = predictor.predict()
        except SamdpoError as error:
            failed.append(str(error))
            continue
        written.append(write_prediction(prediction, output, case.identifier, plans, save_probabilities))
        if prediction.report["look_at"]:
            flagged.append(case.identifier)
    for name in ("plans.json", "dataset.json"):
        if (model / name).is_file():
            shutil.copyfile(model / name, output / name)
    write_json(output / "predict_from_raw_data_args.json", {
        "input": source, "model": model.name, "folds": folds, "checkpoint": checkpoint, "mirror": mirror,
        "look_at": sorted(flagged)})
    seconds = (time.perf_counter() - started) / max(len(written), 1)
    log.info("%d cases written to %s (%.2f s a case), %d were there already.", len(written), output, seconds, len(done))
    if flagged:
        log.info("A person should look at %d of them: %s. The reasons are in their .json files.", len(flagged),
                 ", ".join(sorted(flagged)[:10]) + (" …" if len(flagged) > 10 else ""))
    if failed:
        raise DatasetError(f"{len(failed)} cases could not be predicted:\n  " + "\n  ".join(failed))
    return written
