"""FixMatch: what is surely seen in a weak view is the label of a strong one (Sohn et al. 2020, arXiv:2001.07685)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from samdpo.errors import PlansError
from samdpo.lab.baselines.consistency import ConsistencyTrainer
from samdpo.model.views import View
from samdpo.training.trainer import Metrics


class FixMatchTrainer(ConsistencyTrainer):
    """Pixels of which the weak view is sure are pseudo-labels of the strong view; the others are not learned from.

    FixMatch distorts the strong image. Where the encoder is frozen and its outputs are kept, the strong view is the
    mirror image with a jittered prompt, and what is distorted is the embedding: channels are dropped, the
    perturbation of features of UniMatch (Yang et al. 2023, arXiv:2208.09910, Sec. 3.2). Where it trains, brightness and
    contrast are drawn too. The loss on confident pixels
    is the stage's segmentation loss, as on labelled images. Its weight is constant: the share of confident pixels
    grows of itself (Sohn et al. 2020, Sec. 2.2).
    """

    objectives = ("fixmatch",)

    def initialize(self) -> None:
        """Also check the settings.

        Raises:
            PlansError: a confidence below 0.5, at which a pixel would be both, or a share of channels that is none.
        """
        plan = self.stage.consistency
        if not 0.5 <= plan.confidence <= 1 or not 0 <= plan.feature_dropout < 1:
            raise PlansError(
                f"{self.plans.plans_name}, stage {self.stage_name!r}: 'consistency.confidence' is {plan.confidence} "
                f"and 'consistency.feature_dropout' is {plan.feature_dropout}; expected 0.5 to 1, and 0 to below 1."
            )
        super().initialize()

    def strong_views(self, weak: Sequence[View], generator: torch.Generator) -> list[View]:
        """The other of the two kept views, where the plan mirrors."""
        return [replace(view, flip=self.stage.augmentation.flip and not view.flip) for view in weak]

    def perturbed(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Whole channels of (B, C, h, w) dropped, the rest scaled up to keep the mean."""
        return F.dropout2d(embeddings, self.stage.consistency.feature_dropout)

    def consistency_loss(self, logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, Metrics]:
        """Segmentation loss on the pixels of which the weak view is sure; 0 where it is sure of none."""
        plan = self.stage.consistency
        confident = torch.maximum(target, 1 - target) >= plan.confidence
        losses = self.loss(logits, target > 0.5, confident)
        loss = losses.sum() / self.processes.divisor(len(losses))
        return plan.weight * loss, {"loss/consistency": loss.detach(), "confident": confident.float().mean()}
