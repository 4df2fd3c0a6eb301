"""One fold of a preprocessed dataset: plan, split, slices, prompts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from samdpo.errors import TrainingError
from samdpo.files import copy_file, hash_of
from samdpo.model.batches import SliceSamples
from samdpo.paths import number_of, preprocessed_folder
from samdpo.planning.fingerprint import FINGERPRINT_FILE, load_case_groups
from samdpo.planning.splits import Fold, fold_of, load_splits
from samdpo.planning.subsets import cases_by_group
from samdpo.plans import AugmentationPlan, Plans, save_plans
from samdpo.preprocessing.store import SliceStore
from samdpo.prompting.making import make_prompts
from samdpo.prompting.prompt_store import PromptStore
from samdpo.prompting.prompter import Prompter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoldData:
    """Everything a trainer reads.

    Attributes:
        plans: the plan, overrides applied.
        fold: number of the fold, or ``all``.
        split: which cases train, validate, are labelled, are unlabelled.
        slices: the preprocessed slices.
        prompts: prompts of every slice of the fold, but for those of unlabelled cases that wait for a judge, see
            :meth:`judge`; None where the trainer uses none.
        prompter: what made them, and makes those of new images; None likewise.
        groups: patient (or near-duplicate cluster) of each case.
        processes: for case-level work.
        workers: that make training samples; None is as many as suit the device.
    """

    plans: Plans
    fold: int | str
    split: Fold
    slices: SliceStore
    prompts: PromptStore | None
    prompter: Prompter | None
    groups: Mapping[str, str]
    processes: int = 2
    workers: int | None = None

    @classmethod
    def load(
        cls, plans: Plans, fold: int | str, device: str = "auto", processes: int = 2, with_prompts: bool = True,
        workers: int | None = None,
    ) -> FoldData:
        """Open a fold; prompts that are missing are made, unless none are wanted.

        Raises:
            TrainingError: not preprocessed, no such fold, nothing labelled.
        """
        folder = preprocessed_folder(plans.dataset_name)
        store = folder / plans.preprocessing.data_identifier
        if not store.is_dir():
            raise TrainingError(
                f"{store} does not exist: {plans.dataset_name} is not preprocessed with {plans.plans_name}. Type: "
                f"samdpo_preprocess -d {number_of(plans.dataset_name)}"
            )
        slices = SliceStore(store)
        labelled = {case: one.labelled for case, one in slices.summaries().items()}
        split = fold_of(load_splits(folder, labelled), fold, folder)
        prompts = make_prompts(plans, fold, device, judged=()) if with_prompts else None
        return cls(
            plans=plans,
            fold=fold,
            split=split,
            slices=slices,
            prompts=prompts,
            prompter=Prompter.load(prompts.folder / "prompter") if prompts else None,
            groups=load_case_groups(folder),
            processes=processes,
            workers=workers,
        )

    def samples(self, augmentation: AugmentationPlan) -> SliceSamples:
        """Samples under the views of a stage."""
        return SliceSamples(self.plans, self.slices, self.prompts, augmentation)

    def judge(self, cases: Sequence[str], device: torch.device) -> None:
        """Prompt unlabelled cases where the judge of the outlines says; nothing to do where none chooses the place."""
        if self.prompts is not None and self.prompts.located is not self.prompts:
            make_prompts(self.plans, self.fold, str(device), judged=cases)

    def hold_back(self, share: float, seed: int) -> tuple[list[str], list[str]]:
        """Labelled cases split into (trained on, held back) by group; at least one case trains.

        Args:
            share: of the labelled cases to hold back, 0 for none.
            seed: of the choice.
        """
        labelled = sorted(self.split.labelled)
        by_group = cases_by_group(labelled, self.groups)
        groups = sorted(by_group)
        wanted = min(round(share * len(labelled)), len(labelled) - 1)
        held: list[str] = []
        for group in np.random.default_rng(seed).permutation(groups).tolist()[: len(groups) - 1]:
            if len(held) + len(by_group[group]) <= wanted:
                held += by_group[group]
        return sorted(set(labelled) - set(held)), sorted(held)

    def write_description(self, model_folder: Path, stage: str) -> None:
        """``plans.json``, ``dataset.json`` and the fingerprint, so that the model folder describes itself.

        The plan is that of its ``stage`` with every value, so that no later change of a default changes the model.
        """
        source = preprocessed_folder(self.plans.dataset_name)
        save_plans(self.plans.only(stage), model_folder / "plans.json")
        for name in ("dataset.json", FINGERPRINT_FILE):
            if (source / name).is_file():
                copy_file(source / name, model_folder / name)


def data_hashes(split: Fold) -> dict[str, str]:
    """A hash of each part of a fold: two trainings with equal hashes had the same cases."""
    parts = {"train": split.train, "labelled": split.labelled, "unlabelled": split.unlabelled, "val": split.val}
    return {name: hash_of(sorted(cases)) for name, cases in parts.items()}


def own_prompts(fold_folder: Path) -> Path:
    """Where a fold of a model keeps prompts of its own, refitted in training; a fold without follows the plan's."""
    return fold_folder / "prompts"
