"""The paper's prompt-only baseline: stage 1 on every label there is, the supervised upper bound (paper Sec. 4)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from samdpo.planning.splits import Fold
from samdpo.prompting.making import make_prompts_of
from samdpo.prompting.prompter import Prompter
from samdpo.training.finetune import FinetuneTrainer
from samdpo.training.fold_data import FoldData, own_prompts


class PromptOnlyTrainer(FinetuneTrainer):
    """Learns from all labelled training cases of the fold, whatever share of them ``--labelled`` leaves to others.

    Its prompts are fitted to all of them too and lie in ``fold_X/prompts``; the fold's own, which the other stages
    share, are neither made nor read. No unlabelled image is prompted: nothing is learned from any.

    Arguments are those of :class:`~samdpo.training.trainer.Trainer`; the fold comes without prompts.
    """

    uses_prompts = False  # those of the fold, which are fitted to its labelled part

    def __init__(
        self, data: FoldData, stage: str, folder: Path, device: str = "auto", pretrained_weights: Path | None = None
    ) -> None:
        data = dataclasses.replace(data, split=with_every_label(data))
        super().__init__(data, stage, folder, device, pretrained_weights)

    def initialize(self) -> None:
        """Make the prompts first; those that are there of the same labels and settings are kept."""
        self.data = self.processes.main_first(self.with_prompts)
        self.samples = self.data.samples(self.stage.augmentation)
        super().initialize()

    def perform_actual_validation(self, save_probabilities: bool = False) -> dict[str, Any]:
        """As in stage 1; prompts that were deleted are made again."""
        if not own_prompts(self.fold_folder).is_dir():
            self.with_prompts()
        return super().perform_actual_validation(save_probabilities)

    def with_prompts(self) -> FoldData:
        """The fold with prompts of its labelled and validation cases, and the prompter that made them."""
        split = self.data.split
        folder = own_prompts(self.fold_folder)
        prompts = make_prompts_of(self.plans, folder, split.labelled, split.val, (), str(self.device))
        return dataclasses.replace(self.data, prompts=prompts, prompter=Prompter.load(prompts.prompter_folder))


def with_every_label(data: FoldData) -> Fold:
    """The split of a fold with all training cases labelled; unlabelled is what has no label at all."""
    labelled = sorted(case for case in data.split.train if data.slices.has_label(case))
    unlabelled = sorted(set(data.split.unlabelled) - set(labelled))
    return dataclasses.replace(data.split, labelled=labelled, unlabelled=unlabelled)
