"""Two models' probabilities of the validation cases averaged, cut and measured."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from samdpo.dataset.images import write_label
from samdpo.evaluation.summary import evaluate_folder
from samdpo.model.folder import read_plans
from samdpo.parallel import map_cases
from samdpo.paths import preprocessed_folder
from samdpo.plans import Plans
from samdpo.selection.cross_validation import CrossValidation, folds_text
from samdpo.selection.ensemble import average_case, with_common_clean_up
from samdpo.selection.trained import TrainedModel


def ensemble_folder(first: TrainedModel, second: TrainedModel, folds: tuple[str, ...]) -> Path:
    """``nnUNet_results/DATASET/ensembles/ensemble___A___B___0_1_…``, nnU-Net's name."""
    name = "___".join(("ensemble", first.name, second.name, folds_text(folds)))
    return first.folder.parent / "ensembles" / name


def lacking_probabilities(model: CrossValidation, folds: tuple[str, ...]) -> list[str]:
    """The folds of which a validation case has no probabilities beside its mask."""
    folders = {mask.parent for case, mask in model.masks.items() if not mask.with_name(f"{case}.npz").is_file()}
    return [fold for fold in folds if any(folder.parent == model.model.fold(fold) for folder in folders)]


def ensemble_validations(
    first: CrossValidation, second: CrossValidation, folds: tuple[str, ...], processes: int = 1
) -> tuple[Path, dict[str, Any]]:
    """Average two models on their common validation cases; returns the folder of the masks and its summary.

    Raises:
        DatasetError: probabilities cannot be read or do not fit together.
    """
    plans = with_common_clean_up([read_plans(of.model.folder) for of in (first, second)])
    output = ensemble_folder(first.model, second.model, folds)
    cases = sorted(first.masks)
    for left in output.glob(f"*{plans.file_ending}"):  # of other splits
        if left.name.removesuffix(plans.file_ending) not in first.masks:
            left.unlink()
    places = [(case, (first.masks[case].parent, second.masks[case].parent)) for case in cases]
    for _ in map_cases(partial(_average, plans, output), places, processes, "averaging"):
        pass
    truth = preprocessed_folder(plans.dataset_name) / "gt_segmentations"
    summary = evaluate_folder(truth, output, first.model.folder / "dataset.json", cases=cases, processes=processes)
    return output, summary


def _average(plans: Plans, output: Path, place: tuple[str, tuple[Path, ...]]) -> None:
    case, folders = place
    averaged = average_case(folders, case, plans, plans.file_ending)
    write_label(averaged.segmentation, output / f"{case}{plans.file_ending}", averaged.properties)
