"""What the encoder, the prompt encoder and the mask decoder share."""

from __future__ import annotations

import torch
from torch import nn


class LayerNorm3d(nn.Module):
    """Layer norm over the channels of (B, C, D, H, W), as SAM's ``LayerNorm2d``; eps 1e-6.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, D, H, W) -> the same shape."""
        last = torch.movedim(x, 1, -1)
        normed = nn.functional.layer_norm(last, self.weight.shape, self.weight, self.bias, eps=1e-6)
        return torch.movedim(normed, -1, 1)
