"""Networks that need no prompt: images in, one logit map a structure out."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class PromptFreeNetwork(nn.Module, ABC):
    """Base of the baselines that segment without prompts; prediction uses :meth:`segment`."""

    @abstractmethod
    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """Slices (B, 3, H, W) in [0, 1] -> logits (B, L, H, W), the L structures in the plan's order."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """As :meth:`segment`."""
        return self.segment(images)
