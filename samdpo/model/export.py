"""Write predictions beside each other: the mask, its report, and probabilities or a DICOM SEG where asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.dataset.images import check_writable, has_sidecar, write_label
from samdpo.dataset.volume import UNKNOWN_SPACING
from samdpo.files import atomic_path, write_json
from samdpo.model.dicom_seg import write_dicom_seg
from samdpo.model.predictor import Prediction
from samdpo.plans import Plans

DICOM_RESULT_ENDING = ".nii.gz"


def write_prediction(
    prediction: Prediction, folder: Path, case: str, plans: Plans, save_probabilities: bool = False,
    dicom_seg: bool = False, origin: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``case.png`` (or the dataset's ending), ``case.json`` and, if asked, ``case.npz`` and ``case.dcm``.

    The mask of a DICOM series is ``case.nii.gz``, since a picture would lose its geometry. The report of a mask that is
    a TIFF stack holds its spacing too: ``case.json`` is where that stands.

    Args:
        prediction: of the case.
        folder: to write to.
        case: identifier.
        plans: of the model.
        save_probabilities: whether ``case.npz`` is written; one of another model is removed else.
        dicom_seg: whether ``case.dcm`` is.
        origin: what the report keeps besides: the model and the input that it was made of.

    The mask is written last, so that a case with a mask is whole (``--continue_prediction`` goes by it).

    Returns:
        the mask's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = prediction.properties.get("dicom_files")
    mask = folder / f"{case}{DICOM_RESULT_ENDING if sources else plans.file_ending}"
    check_writable(prediction.segmentation.shape, mask)
    report = {"case": case, **prediction.report, **(origin or {})}
    if has_sidecar(mask, prediction.segmentation.shape):
        report["spacing"] = list(prediction.properties.get("spacing", UNKNOWN_SPACING))
    write_json(folder / f"{case}.json", report)
    if save_probabilities:
        with atomic_path(folder / f"{case}.npz") as temporary:
            # nnU-Net's key and layout: (classes, Z, Y, X), background first.
            background = 1 - prediction.probabilities.max(0, keepdims=True)
            np.savez_compressed(temporary, probabilities=np.concatenate([background, prediction.probabilities]))
    else:  # those of an earlier model would be averaged as if they were this one's
        (folder / f"{case}.npz").unlink(missing_ok=True)
    if dicom_seg:
        write_dicom_seg(prediction.segmentation, sources, plans.structures, folder / f"{case}.dcm")
    write_label(prediction.segmentation, mask, prediction.properties)
    return mask
