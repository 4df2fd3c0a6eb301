"""Which trained model, or which two together, segment a dataset's validation cases best.

As nnU-Net's command of that name: validations of the folds are put together, pairs of models are ensembled, the one
of highest mean Dice is chosen, and whether its largest parts alone are better is tried.
"""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.dataset.images import write_label
from samdpo.errors import ConfigurationError, DatasetError, ModelFolderError, PlansError
from samdpo.evaluation.summary import evaluate_folder
from samdpo.files import write_json, write_text
from samdpo.model.folder import read_plans
from samdpo.parallel import map_cases
from samdpo.paths import dataset_name, preprocessed_folder, results_root
from samdpo.plans import Plans
from samdpo.selection.cross_validation import CrossValidation, accumulate_folds, folds_text
from samdpo.selection.ensemble import average_case, with_common_clean_up
from samdpo.selection.postprocessing import FILE as POSTPROCESSING_FILE
from samdpo.selection.postprocessing import Postprocessing, determine_postprocessing
from samdpo.selection.trained import TrainedModel, trained_models

log = logging.getLogger(__name__)

OUTPUT = "PREDICTIONS"  # in the commands to type
N_FOLDS = 5  # nnU-Net's
INFORMATION, INSTRUCTIONS = "inference_information.json", "inference_instructions.txt"  # nnU-Net's names
_LISTED = 5


@dataclass(frozen=True)
class Contestant:
    """One model, or an ensemble of two.

    Attributes:
        models: which.
        folder: of its masks of the validation cases and their ``summary.json``.
        summary: see :func:`samdpo.evaluation.summary.summarize`.
        labelled: labelled cases that the folds of a single model were trained on.
    """

    models: tuple[TrainedModel, ...]
    folder: Path
    summary: dict[str, Any]
    labelled: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The model's; of an ensemble nnU-Net's."""
        return self.models[0].name if len(self.models) == 1 else self.folder.name

    @property
    def dice(self) -> float:
        """Mean over structures of the mean over cases."""
        return self.summary["foreground_mean"]["Dice"]


@dataclass(frozen=True)
class BestConfiguration:
    """What was compared and what won.

    Attributes:
        dataset: ``DatasetXXX_Name``.
        folds: whose validation cases were compared on.
        contestants: single models first.
        best: of those that samdpo_predict can run.
        postprocessing: of ``best``.
        left_out: model -> why it took no part.
        not_ensembled: model -> commands that make the probabilities it lacks.
        text: what to type.
    """

    dataset: str
    folds: tuple[str, ...]
    contestants: list[Contestant]
    best: Contestant
    postprocessing: Postprocessing
    left_out: dict[str, str]
    not_ensembled: dict[str, list[str]]
    text: str


def find_best_configuration(
    dataset: int | str,
    trainers: Sequence[str] | None = None,
    plans: Sequence[str] | None = None,
    stages: Sequence[str] | None = None,
    folds: Sequence[str] = tuple(str(fold) for fold in range(N_FOLDS)),
    ensembling: bool = True,
    processes: int = 1,
) -> BestConfiguration:
    """Compare a dataset's models; writes ``inference_information.json`` and ``inference_instructions.txt``.

    Args:
        dataset: id or name.
        trainers: only of these; None for all that are trained.
        plans: likewise.
        stages: likewise.
        folds: whose validation cases are compared on; models that lack one are left out.
        ensembling: whether pairs of models take part too.
        processes: cases at once.

    Raises:
        ConfigurationError: no model has all folds, or models were validated on different cases.
    """
    name, folds = dataset_name(dataset), _checked(folds)
    singles, left_out = _cross_validations(trained_models(name, trainers, plans, stages), folds)
    _refuse_different_cases(singles)
    contestants = [Contestant((of.model,), of.folder, of.summary, of.labelled) for of in singles]
    not_ensembled: dict[str, list[str]] = {}
    if ensembling and len(singles) > 1:
        able = [of for of in singles if not of.model.is_nnunets]
        not_ensembled = {of.model.name: commands for of in able if (commands := _missing_probabilities(of, folds))}
        for first, second in combinations([of for of in able if of.model.name not in not_ensembled], 2):
            log.info("Averaging %s", ensemble_folder(first.model, second.model, folds).name)
            folder, summary = ensemble_validations(first, second, folds, processes)
            contestants.append(Contestant((first.model, second.model), folder, summary))
    best = _best(contestants)
    post = determine_postprocessing(
        preprocessed_folder(name) / "gt_segmentations", best.folder, sorted(singles[0].masks),
        load_dataset_json(best.models[0].folder), processes,
    )
    post.save(best.folder / POSTPROCESSING_FILE)
    text = instructions(best, post, folds, len(singles[0].masks))
    found = BestConfiguration(name, folds, contestants, best, post, left_out, not_ensembled, text)
    write_json(results_root() / name / INFORMATION, _information(found, ensembling))
    write_text(results_root() / name / INSTRUCTIONS, text)
    return found


def _checked(folds: Sequence[str]) -> tuple[str, ...]:
    numbers = [str(fold) for fold in folds]
    wrong = [fold for fold in numbers if not fold.isdecimal()]
    if wrong:
        raise ConfigurationError(
            f"-f names {', '.join(wrong)}; expected numbers of folds, such as -f 0 1 2 3 4. (The fold 'all' validates "
            "on the cases it was trained on, which tells nothing.)"
        )
    return tuple(str(fold) for fold in sorted({int(fold) for fold in numbers}))


def _cross_validations(
    models: Sequence[TrainedModel], folds: tuple[str, ...]
) -> tuple[list[CrossValidation], dict[str, str]]:
    """Results of the models that have every fold, and why the others have none."""
    singles, left_out = [], {}
    for model in models:
        try:
            accumulated = accumulate_folds(model, folds)
        except (ModelFolderError, PlansError, DatasetError) as error:  # a full disk is another matter
            left_out[model.name] = str(error)
            continue
        if math.isnan(accumulated.summary["foreground_mean"]["Dice"]):
            left_out[model.name] = "no validation case shows a structure"
        else:
            singles.append(accumulated)
    if not singles:
        listing = "\n  ".join(f"{name}: {why}" for name, why in left_out.items())
        there = sorted({fold for model in models for fold in model.trained_folds()})
        raise ConfigurationError(
            f"No model has a validation of every one of the folds {', '.join(folds)}. Train the missing ones, or "
            f"compare on those that are trained ({', '.join(there) or 'none'}) with -f. Left out:\n  {listing}"
        )
    return singles, left_out


def _refuse_different_cases(singles: Sequence[CrossValidation]) -> None:
    first = singles[0]
    for other in singles[1:]:
        differing = sorted(set(first.masks) ^ set(other.masks))
        if differing:
            shown = ", ".join(differing[:_LISTED]) + (" …" if len(differing) > _LISTED else "")
            raise ConfigurationError(
                f"{first.model.name} was validated on {len(first.masks)} cases and {other.model.name} on "
                f"{len(other.masks)}; {len(differing)} of them are of one alone ({shown}). Models compare only on the "
                "same cases: train one of them again on today's splits_final.json, or choose models with -c, -p and "
                "-tr."
            )


def _missing_probabilities(of: CrossValidation, folds: tuple[str, ...]) -> list[str]:
    return [of.model.validate_command(fold, "--npz") for fold in lacking_probabilities(of, folds)]


def _best(contestants: Sequence[Contestant]) -> Contestant:
    able = [c for c in contestants if not any(model.is_nnunets for model in c.models)]
    if not able:
        raise ConfigurationError(
            f"Only {contestants[0].name} has a validation of every fold, a model that nnU-Net's own commands predict "
            "with. Train another stage, such as finetune."
        )
    return max(able, key=lambda contestant: contestant.dice)  # of equals the first, which is the simpler one


def _information(found: BestConfiguration, ensembling: bool) -> Mapping[str, Any]:
    """nnU-Net's keys, and what was left out."""

    def described(model: TrainedModel) -> dict[str, str]:
        return {"configuration": model.stage, "trainer": model.trainer, "plans_identifier": model.plans_name}

    return {
        "folds": [int(fold) for fold in found.folds],
        "dataset_name_or_id": found.dataset,
        "considered_models": [described(c.models[0]) for c in found.contestants if len(c.models) == 1],
        "ensembling_allowed": ensembling,
        "all_results": {c.name: c.dice for c in found.contestants},
        "best_model_or_ensemble": {
            "result_on_crossval_pre_pp": found.best.dice,
            "result_on_crossval_post_pp": found.postprocessing.dice,
            "postprocessing_file": found.best.folder / POSTPROCESSING_FILE,
            "some_plans_file": found.best.models[0].folder / "plans.json",
            "selected_model_or_models": [described(model) for model in found.best.models],
        },
        "left_out": found.left_out,
        "not_ensembled": found.not_ensembled,
    }


def instructions(best: Contestant, post: Postprocessing, folds: Sequence[str], n_cases: int) -> str:
    """The commands with a sentence before each step.

    Args:
        best: the winner.
        post: whether largest parts help it.
        folds: to predict with.
        n_cases: it was measured on.
    """
    names = " and ".join(model.name for model in best.models)
    what = f"the ensemble of {names}" if len(best.models) > 1 else names
    lines = [f"Best on {n_cases} validation cases of fold {', '.join(folds)}: {what}, Dice {best.dice:.4f}.", "",
             "Predict your folder IMAGES:", ""]
    if len(best.models) == 1:
        lines.append(best.models[0].predict_command(folds, OUTPUT))
    else:
        outputs = [f"{OUTPUT}_{number}" for number in range(1, len(best.models) + 1)]
        for model, output in zip(best.models, outputs):
            lines.append(model.predict_command(folds, output, "--save_probabilities"))
        lines.append(f"samdpo_ensemble -i {' '.join(outputs)} -o {OUTPUT}")
    lines.append("")
    if post.helped:
        file = shlex.quote(str(best.folder / POSTPROCESSING_FILE))
        lines += [f"Then keep only the largest part of {_effects(post)}:", "",
                  f"samdpo_apply_postprocessing -i {OUTPUT} -o {OUTPUT}_PP -pp_file {file}"]
    else:
        lines.append("No postprocessing: keeping only the largest part of a structure raises no Dice.")
    return "\n".join(lines) + "\n"


def _effects(post: Postprocessing) -> str:
    return ", ".join(f"{name} (Dice {e.dice_before:.4f} -> {e.dice_after:.4f})" for name, e in post.helped.items())


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
