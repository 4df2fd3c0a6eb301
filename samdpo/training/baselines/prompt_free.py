"""Base of the baselines that learn from masks alone and need no prompt, neither in training nor in prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from samdpo.errors import TrainingError
from samdpo.networks.precision import autocast
from samdpo.networks.prompt_free import PromptFreeNetwork
from samdpo.training.baselines.mask_samples import MaskBatch, MaskSamples
from samdpo.training.batches import SliceKey
from samdpo.training.confidence import MOST_SLICES, PERCENTILE, confidence_of
from samdpo.training.trainer import Trainer
from samdpo.training.views import FLIPPED, IDENTITY, View


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

    def measure_confidence(self, batch_size: int = 4) -> dict[str, float]:
        """Of each structure the 10th percentile of its confidence on slices trained on, where anything was found.

        Up to 64 slices, evenly chosen; averaged with their mirror image where prediction does so.
        """
        keys, names = self.confidence_keys(), list(self.plans.structures)
        chosen = [keys[i] for i in np.linspace(0, len(keys) - 1, min(len(keys), MOST_SLICES)).round().astype(int)]
        found: dict[str, list[float]] = {}
        for start in range(0, len(chosen), batch_size):
            chunk = chosen[start : start + batch_size]
            mean = self._probabilities_of(chunk, IDENTITY)
            if self.plans.inference.mirror:
                mean = (mean + self._probabilities_of(chunk, FLIPPED).flip(-1)) / 2
            for row, probability in enumerate(mean.cpu().numpy()):
                if (confidence := confidence_of(probability, self.mask_cut)) > 0:
                    found.setdefault(names[row % len(names)], []).append(confidence)
        return {name: round(float(np.percentile(values, PERCENTILE)), 4) for name, values in found.items()}

    def _probabilities_of(self, keys: list[SliceKey], view: View) -> torch.Tensor:
        return self.probabilities(
            self.samples.collate([self.samples.sample(key, view, with_truth=False) for key in keys])
        )
