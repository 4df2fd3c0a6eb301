"""Validation of a fold of SAM-Med3D, by clicks that no person gives or by clicks into the truth."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from samdpo.dataset.orientation import Turn
from samdpo.evaluation.summary import evaluate_folder
from samdpo.lab.sam_med3d.clicks import innermost
from samdpo.lab.sam_med3d.cubes import Cubes
from samdpo.lab.sam_med3d.predictor import Clicks, VolumePredictor
from samdpo.model.export import write_prediction
from samdpo.paths import preprocessed_folder
from samdpo.plans import Plans

if TYPE_CHECKING:
    from samdpo.training.fold_data import FoldData

log = logging.getLogger(__name__)


def validate_volumes(
    predictor: VolumePredictor, data: FoldData, model_folder: Path, folder: str,
    clicks_of: Callable[[str], Clicks] | None = None, save_probabilities: bool = False,
) -> dict[str, Any]:
    """Predict and evaluate; writes masks, reports and ``summary.json`` to ``fold_X/FOLDER/``.

    Args:
        predictor: of the fold's model.
        data: the fold.
        model_folder: ``TRAINER__PLANS__STAGE``.
        folder: name of the folder that is written.
        clicks_of: case -> where to click; by default where the structures lie in the training cases.
        save_probabilities: beside the masks.

    Returns:
        the summary; see :func:`samdpo.evaluation.summary.evaluate_folder`.
    """
    output = model_folder / f"fold_{data.fold}" / folder
    cases = [case for case in data.split.val if data.slices.has_label(case)]
    for case in tqdm(cases, desc=folder, unit="case"):
        properties = data.slices.properties(case)
        prediction = predictor.predict_prepared(
            data.slices.geometry(case), lambda index, case=case: data.slices.image(case, index), None,
            properties["spacing"], properties["image_properties"], save_probabilities,
            Turn.of(properties), None if clicks_of is None else clicks_of(case),
        )
        write_prediction(prediction, output, case, data.plans, save_probabilities)
    truth = preprocessed_folder(data.plans.dataset_name) / "gt_segmentations"
    summary = evaluate_folder(truth, output, model_folder / "dataset.json", cases=cases, processes=data.processes)
    mean = summary["foreground_mean"]
    log.info("%s of fold %s on %d cases: Dice %.4f, IoU %.4f, surface Dice %.4f. Written: %s", folder, data.fold,
             len(cases), mean["Dice"], mean["IoU"], mean["SurfaceDice"], output / "summary.json")
    return summary


def truth_clicks(cubes: Cubes, plans: Plans) -> dict[str, list[float]]:
    """Of each structure that is in a case the voxel deepest in the truth, as a fraction (x, y, z) of the volume.

    Published results click on a voxel drawn from the truth; the deepest one is where a person aims, and is the same
    each time.
    """
    found = {}
    for name, structure in plans.structures.items():
        mask = (cubes.label == structure.label).numpy()
        if mask.any():
            found[name] = cubes.grid.fraction(innermost(mask))
    return found
