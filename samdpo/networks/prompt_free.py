"""Networks that need no prompt: slices in, one logit map a structure out; or volumes, seen as a whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from samdpo.errors import PlansError
from samdpo.plans import NetworkPlan


class PromptFreeNetwork(nn.Module, ABC):
    """Base of the baselines that segment without prompts; prediction uses :meth:`segment`."""

    @abstractmethod
    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """Slices (B, 3, H, W) in [0, 1] -> logits (B, L, H, W), the L structures in the plan's order."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """As :meth:`segment`."""
        return self.segment(images)


class VolumeNetwork(nn.Module, ABC):
    """Base of networks that see a volume as a whole, not slice by slice; no prompter belongs to one."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Side of the cubes of voxels that it takes."""

    @staticmethod
    @abstractmethod
    def predictor_class() -> Any:
        """The subclass of :class:`samdpo.model.predictor.Predictor` that runs folds of such networks."""


def structures_of(plan: NetworkPlan) -> int:
    """``network.outputs``, which must be 1 or more for a network without prompts.

    Raises:
        PlansError: it is not.
    """
    if plan.outputs < 1:
        raise PlansError(
            f"'network.outputs' is {plan.outputs}; a network without prompts needs the number of structures. The "
            "stages unet and self_prompt have it; plan them with: samdpo_plan_experiment -d DATASET"
        )
    return plan.outputs
