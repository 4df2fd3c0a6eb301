"""Validation of a fold: predict its validation cases from the stores, in native size, and compare with the truth."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from samdpo.dataset.orientation import Turn
from samdpo.evaluation.summary import evaluate_folder
from samdpo.model.export import write_prediction
from samdpo.model.predictor import Prediction, Predictor
from samdpo.paths import preprocessed_folder
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.prompt_store import PromptStore
from samdpo.training.fold_data import FoldData, own_prompts

log = logging.getLogger(__name__)


class PromptSource(Protocol):
    """What gives the prompts of a slice, as a :class:`PromptStore` does."""

    def get(self, case: str, index: int) -> list[StructurePrompt]:
        """Prompts of one slice, one a structure."""


def validate_fold(
    predictor: Predictor, data: FoldData, model_folder: Path, save_probabilities: bool = False,
    prompts: PromptSource | None = None, folder: str = "validation",
) -> dict[str, Any]:
    """Predict and evaluate; writes ``fold_X/validation/`` with masks, reports and ``summary.json``.

    Args:
        predictor: of the fold's model.
        data: the fold.
        model_folder: ``TRAINER__PLANS__STAGE``.
        save_probabilities: beside the masks.
        prompts: where the prompts of a slice come from; by default the fold's own, else those of its data, of labelled
            cases (fold ``all``) as if they were new.
        folder: name of the folder that is written.

    Returns:
        the summary; see :func:`samdpo.evaluation.summary.evaluate_folder`.
    """
    own = own_prompts(model_folder / f"fold_{data.fold}")
    if prompts is None:
        fitted = PromptStore(own) if own.is_dir() else data.prompts
        prompts = fitted.as_new if isinstance(fitted, PromptStore) else fitted

    def predict(case: str, properties: Mapping[str, Any]) -> Prediction:
        return predictor.predict_prepared(
            data.slices.geometry(case),
            lambda index: data.slices.seen_image(case, index),
            lambda _, index, __: prompts.get(case, index),
            properties["spacing"], properties["image_properties"], save_probabilities,
            Turn.of(properties),
        )

    return write_validation(predict, data, model_folder, folder, save_probabilities)


def write_validation(
    predict: Callable[[str, Mapping[str, Any]], Prediction], data: FoldData, model_folder: Path, folder: str,
    save_probabilities: bool,
) -> dict[str, Any]:
    """Write masks, reports and ``summary.json`` of a fold's validation cases to ``fold_X/FOLDER/``.

    Args:
        predict: case, and its properties in the slice store -> prediction.
        data: the fold.
        model_folder: ``TRAINER__PLANS__STAGE``.
        folder: name of the folder that is written.
        save_probabilities: beside the masks.

    Returns:
        the summary; see :func:`samdpo.evaluation.summary.evaluate_folder`.
    """
    output = model_folder / f"fold_{data.fold}" / folder
    cases = [case for case in data.split.val if data.slices.has_label(case)]
    for case in tqdm(cases, desc=folder, unit="case"):
        prediction = predict(case, data.slices.properties(case))
        write_prediction(prediction, output, case, data.plans, save_probabilities)
    truth = preprocessed_folder(data.plans.dataset_name) / "gt_segmentations"
    summary = evaluate_folder(truth, output, model_folder / "dataset.json", cases=cases, processes=data.processes)
    mean = summary["foreground_mean"]
    log.info("%s of fold %s on %d cases: Dice %.4f, IoU %.4f, surface Dice %.4f. Written: %s", folder.capitalize(),
             data.fold, len(cases), mean["Dice"], mean["IoU"], mean["SurfaceDice"], output / "summary.json")
    return summary
