"""The trained models of a dataset, and what to type for one of them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samdpo.errors import ConfigurationError
from samdpo.extensions import OURS, name_to_type
from samdpo.model.description import read_description
from samdpo.model.folder import read_plans, trained_folds
from samdpo.paths import fold_folder, model_parts, number_of, plans_option, results_root
from samdpo.training import checkpoints


@dataclass(frozen=True)
class TrainedModel:
    """A model folder ``TRAINER__PLANS__STAGE`` with at least one fold in it, finished or not."""

    folder: Path
    trainer: str
    plans_name: str
    stage: str

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    @property
    def dataset(self) -> str:
        """``DatasetXXX_Name``."""
        return self.folder.parent.name

    @property
    def number(self) -> int:
        """Of the dataset."""
        return number_of(self.dataset)

    def fold(self, fold: str) -> Path:
        """Folder of a fold."""
        return fold_folder(self.folder, fold)

    def trained_folds(self) -> list[str]:
        """Folds that have their final weights."""
        return trained_folds(self.folder, checkpoints.FINAL)

    @property
    def is_nnunets(self) -> bool:
        """Whether nnU-Net's own commands predict with it, as with the stage ``nnunet``."""
        return "nnunetv2" in self._description()

    def _description(self) -> dict[str, Any]:
        """``model.json`` of the first fold that has one; {} where none is trained yet."""
        files = sorted(self.folder.glob("fold_*/model.json"))
        return read_description(files[0]) if files else {}

    def validate_command(self, fold: str, *flags: str) -> str:
        """``samdpo_train`` that predicts the validation cases of a trained fold again."""
        words = ["samdpo_train", str(self.number), self.stage, fold, "--val", *flags]
        return shlex.join(words) + plans_option(self.plans_name) + self._trainer_option()

    def predict_command(self, folds: Sequence[str], output: str, *flags: str) -> str:
        """``samdpo_predict`` with all that tells this model from others, and its trainer where prediction needs it."""
        described = self._description()
        trainer = name_to_type(described["trainer"]) if described.get("custom_architecture") else self.trainer
        return shlex.join([
            "samdpo_predict", "-i", "IMAGES", "-o", output, "-d", str(self.number), "-tr", trainer, "-p",
            self.plans_name, "-c", self.stage, "-f", *folds, *flags,
        ])

    def _trainer_option(self) -> str:
        """`` -tr`` where the plan's stage names another trainer."""
        if read_plans(self.folder).stage(self.stage).trainer == self.trainer:
            return ""
        if self.trainer in OURS["trainer"]:
            return f" -tr {self.trainer}"
        return f" -tr {shlex.quote(name_to_type(self._description().get('trainer', self.trainer)))}"


def trained_models(
    dataset: str,
    trainers: Sequence[str] | None = None,
    plans: Sequence[str] | None = None,
    stages: Sequence[str] | None = None,
) -> list[TrainedModel]:
    """The models of a dataset, by name.

    Args:
        dataset: ``DatasetXXX_Name``.
        trainers: only of these; None for all there are.
        plans: likewise.
        stages: likewise.

    Raises:
        ConfigurationError: no model at all, or none of a trainer, plan or stage that is asked for.
    """
    root = results_root() / dataset
    split = [(folder, model_parts(folder.name)) for folder in sorted(root.glob("*__*__*"))]
    every = [TrainedModel(f, *parts) for f, parts in split if parts and any(f.glob("fold_*"))]
    if not every:
        raise ConfigurationError(
            f"{root} has no trained model. Train one with: samdpo_train {number_of(dataset)} finetune 0"
        )
    listing = "\n  ".join(model.name for model in every)
    for flag, asked, attribute in (("-tr", trainers, "trainer"), ("-p", plans, "plans_name"), ("-c", stages, "stage")):
        unknown = [name for name in asked or () if name not in {getattr(model, attribute) for model in every}]
        if unknown:
            raise ConfigurationError(
                f"{flag} names {', '.join(unknown)}, of which there is no model. There are in {root}:\n  {listing}"
            )
        every = [model for model in every if not asked or getattr(model, attribute) in asked]
    if not every:
        raise ConfigurationError(f"No model fits -tr, -p and -c together. There are in {root}:\n  {listing}")
    return every
