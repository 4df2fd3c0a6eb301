"""Base of the baselines that learn from masks alone and need no prompt, neither in training nor in prediction."""

from __future__ import annotations

from typing import Any

import torch

from samdpo.errors import TrainingError
from samdpo.lab.baselines.mask_samples import MaskBatch, MaskSamples
from samdpo.networks.precision import autocast
from samdpo.networks.prompt_free import PromptFreeNetwork
from samdpo.training.trainer import Trainer


class PromptFreeTrainer(Trainer):
    """Trains on every labelled slice, also those that show no structure: nothing else says that one is absent.

    A variant overrides ``train_step``, and :meth:`logits` where a batch does not go through the whole network.
    """

    uses_prompts = False
    network: PromptFreeNetwork  # type: ignore[assignment]
    samples: MaskSamples  # type: ignore[assignment]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.samples = MaskSamples(self.data.slices, [s.label for s in self.plans.structures.values()])

    def initialize(self) -> None:
        """As :meth:`Trainer.initialize`; masks that are empty everywhere are refused too.

        Raises:
            TrainingError: no labelled slice shows a structure.
        """
        super().initialize()
        cases = {case for case, _ in self.train_keys}
        if not any(any(self.data.slices.properties(case)["slices_of"].values()) for case in cases):
            raise TrainingError(
                f"No labelled slice of fold {self.data.fold} of {self.plans.dataset_name} has a structure in it, so "
                "there is nothing to learn from. Check the labels with: samdpo_plan_and_preprocess "
                "--verify_dataset_integrity"
            )

    def logits(self, batch: MaskBatch) -> torch.Tensor:
        """What the network says of a batch: (B * L, H, W) float32 on its device, rows as in :class:`MaskBatch`."""
        with autocast(self.device, self.precision):
            return self.network.segment(batch.images.to(self.device)).float().flatten(0, 1)

    @torch.no_grad()
    def probabilities(self, batch: MaskBatch) -> torch.Tensor:  # type: ignore[override]
        """As in prediction: (B * L, H, W) in [0, 1]."""
        self.network.eval()
        return self.logits(batch).sigmoid()

    def structures_of(self, batch: MaskBatch) -> list[str]:  # type: ignore[override]
        """Every slice has a row of each structure."""
        return [*self.plans.structures] * len(batch)
