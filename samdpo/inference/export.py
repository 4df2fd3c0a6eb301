"""Write predictions beside each other: the mask, its report, and probabilities where asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from samdpo.dataset.images import write_label
from samdpo.files import atomic_path, write_json
from samdpo.inference.predictor import Prediction
from samdpo.plans import Plans


def write_prediction(
    prediction: Prediction, folder: Path, case: str, plans: Plans, save_probabilities: bool = False
) -> Path:
    """Write ``case.png`` (or the dataset's ending), ``case.json`` and, if asked, ``case.npz``.

    The mask is written last, so that a case with a mask is whole (``--continue_prediction`` goes by it).

    Returns:
        the mask's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mask = folder / f"{case}{plans.file_ending}"
    write_json(folder / f"{case}.json", {"case": case, **prediction.report})
    if save_probabilities:
        with atomic_path(folder / f"{case}.npz") as temporary:
            # nnU-Net's key and layout: (classes, Z, Y, X), background first.
            background = 1 - prediction.probabilities.max(0, keepdims=True)
            np.savez_compressed(temporary, probabilities=np.concatenate([background, prediction.probabilities]))
    write_label(prediction.segmentation, mask, prediction.properties)
    return mask
