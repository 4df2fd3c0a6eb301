"""What a trained model's folder holds, checked before work starts; which model is meant where none is named."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from samdpo.errors import ConfigurationError, ModelFolderError
from samdpo.extensions import class_name, find_named_in_file
from samdpo.model.description import DESCRIPTION, FINAL, PLANS, REMEDY, check_fold, plans_for, read_description
from samdpo.networks.frozen_encoder import FrozenEncoder
from samdpo.networks.prompt_free import PromptFreeNetwork
from samdpo.networks.registry import build_network
from samdpo.networks.sam import SamNetwork
from samdpo.networks.weights import load_into, load_weights
from samdpo.paths import LATEST_STAGES, dataset_name, model_parts, results_root
from samdpo.plans import Plans
from samdpo.prompting.answers.asking import keep_answers
from samdpo.prompting.box_prompt import WHOLE_IMAGE, WholeImagePrompter
from samdpo.prompting.prompter import Prompter


@dataclass
class FoldModel:
    """One fold's network, what prompts for it, and what its training said of it.

    Attributes:
        network: in eval mode.
        prompter: None of a network that needs no prompt.
        settings: as ``model.json`` holds them, checked; see :class:`~samdpo.model.description.FoldDescription`.
        encoder: the network's, once it runs on a device; None of a network that needs no prompt.
    """

    network: nn.Module
    prompter: Prompter | WholeImagePrompter | None
    settings: dict[str, Any]
    encoder: FrozenEncoder | None = None


def needs_prompts(network: nn.Module) -> bool:
    """Whether a network segments what is prompted for, slice by slice."""
    return isinstance(network, SamNetwork) and not isinstance(network, PromptFreeNetwork)


def read_plans(folder: Path, folds: Sequence[str] = ()) -> Plans:
    """``plans.json`` of a model folder, or of ``folds`` of it; see :func:`~samdpo.model.description.plans_for`."""
    if not folder.is_dir():
        raise ModelFolderError(f"{folder} is not a folder; expected a trained model like Trainer__samdpoPlans__align.")
    if not (folder / PLANS).is_file():
        raise ModelFolderError(f"{folder / PLANS} is missing, so {folder.name} is not a trained model. {REMEDY}")
    return plans_for(folder, folds)


def trained_folds(folder: Path, checkpoint: str) -> list[str]:
    """Names of the folds (``0``, ``all``) of a model folder whose weights are there."""
    return sorted(f.name.removeprefix("fold_") for f in folder.glob("fold_*") if (f / checkpoint).is_file())


def load_fold(
    folder: Path, fold: str, plans: Plans, checkpoint: str, device: torch.device | str = "cpu",
    trainer: str | type | None = None,
) -> FoldModel:
    """Network with its weights, on the CPU, and prompter, on ``device``, of one fold; every file is checked.

    The folder is data: nothing in it is run, no module is imported because a file of it says so, and nothing is
    downloaded that it alone names.

    Args:
        folder: ``TRAINER__PLANS__STAGE``.
        fold: its name, ``0`` or ``all``.
        plans: of the folder.
        checkpoint: file name of the weights.
        device: of the prompter.
        trainer: the user's word on whose architecture it is, see
            :func:`samdpo.extensions.find_named_in_file`.

    Raises:
        ModelFolderError: a file is missing, truncated or does not fit the plan.
        ConfigurationError: the network is built by a class that nobody but the folder names.
    """
    path = folder / f"fold_{fold}"
    for needed in (path / checkpoint, path / DESCRIPTION):
        if not needed.exists():
            raise ModelFolderError(f"{needed} is missing. {REMEDY}")
    settings = read_description(path / DESCRIPTION)
    plans.stage(settings["stage"])
    check_fold(path, checkpoint)
    network = _network(settings, plans, path, trainer)
    load_into(network, load_weights(path / checkpoint), str(path / checkpoint))
    if not needs_prompts(network):
        return FoldModel(network.eval(), None, settings)
    if not (path / "prompter").is_dir():
        raise ModelFolderError(f"{path / 'prompter'} is missing. {REMEDY}")
    try:
        prompter = _prompter(path / "prompter", device)
    except (OSError, KeyError, ValueError) as error:
        raise ModelFolderError(f"{path / 'prompter'} cannot be read ({error}). {REMEDY}") from error
    _check_same_structures(prompter, plans, path / "prompter")
    keep_answers(plans, may_download=False)  # what a model was asked before is not asked again
    return FoldModel(network.eval(), prompter, settings)


def _prompter(folder: Path, device: torch.device | str) -> Prompter | WholeImagePrompter:
    if (folder / WHOLE_IMAGE).is_file():
        return WholeImagePrompter.load(folder)
    return Prompter.load(folder, device, may_download=False)


def _check_same_structures(prompter: Prompter | WholeImagePrompter, plans: Plans, folder: Path) -> None:
    expected = {name: structure.label for name, structure in plans.structures.items()}
    if isinstance(prompter, WholeImagePrompter):
        found = prompter.labels
    else:
        found = {name: structure.label for name, structure in prompter.settings.structures.items()}
    if list(found.items()) != list(expected.items()):  # masks are told apart by their order too
        raise ModelFolderError(
            f"{folder} prompts for the structures {found}, but plans.json of the model has {expected}. {REMEDY}"
        )


def _network(settings: dict[str, Any], plans: Plans, fold: Path, trainer: str | type | None) -> nn.Module:
    """Without weights; the trainer's class is needed only where it builds a network of its own."""
    plan = replace(plans.network, pretrained=False)
    if settings.get("custom_architecture"):
        found = find_named_in_file("trainer", settings["trainer"], fold / DESCRIPTION, trainer, data=fold.parent)
        return found.build_network_architecture(plan)
    try:
        return build_network(plan, data=fold.parent)
    except (RuntimeError, ValueError, TypeError, MemoryError) as error:  # sizes that no network has
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelFolderError(
            f"The network that {fold.parent / 'plans.json'} describes cannot be built ({first}). {REMEDY}"
        ) from error


def find_model(dataset: int | str | None, trainer: str | None, plans: str | None, stage: str | None) -> Path:
    """The trained model that is meant: the one there is; of several stages of one dataset, the latest.

    Raises:
        ConfigurationError: none, or several that the arguments do not tell apart; the message lists them.
    """
    root = results_root()
    pattern = glob.escape(dataset_name(dataset)) if dataset is not None else "Dataset*"
    models = [m for m in sorted(root.glob(f"{pattern}/*__*__*")) if trained_folds(m, FINAL)]
    wanted = (None if trainer is None else class_name(trainer), plans, stage)
    parts = {model: model_parts(model.name) or () for model in models}
    fitting = [m for m in models if all(w in (None, part) for w, part in zip(wanted, parts[m]))]
    if len(fitting) > 1 and len({m.parent for m in fitting}) == 1:
        for latest in LATEST_STAGES:
            of_stage = [m for m in fitting if parts[m][-1] == latest]
            if of_stage:
                fitting = of_stage
                break
    if len(fitting) == 1:
        return fitting[0]
    if not models:
        raise ConfigurationError(
            f"No model is trained yet under {root / pattern}. Train one with: samdpo_train DATASET finetune 0, or name "
            "a model's folder with -m FOLDER."
        )
    listing = "\n  ".join(str(m.relative_to(root)) for m in fitting or models)
    what = "Several trained models fit" if fitting else "No trained model fits"
    raise ConfigurationError(
        f"{what}; name one with -d DATASET, -tr TRAINER, -p PLANS and -c STAGE, or with -m FOLDER. "
        f"There are under {root}:\n  {listing}"
    )
