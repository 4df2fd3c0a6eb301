"""SAM-Med3D's prompt encoder: clicks, and the mask of the clicks before. It has no boxes and no text."""

from __future__ import annotations

import math

import torch
from torch import nn

from samdpo.lab.sam_med3d.layers import LayerNorm3d
from samdpo.lab.sam_med3d.shapes import Shape3d

MASK_CHANNELS = 16  # of the mask's embedding, before the last convolution


class PromptEncoder3d(nn.Module):
    """Clicks and a mask -> sparse tokens (B, K + 1, C) and a dense embedding (B, C, g, g, g).

    Args:
        shape: of the network.
    """

    def __init__(self, shape: Shape3d) -> None:
        super().__init__()
        self.size, self.grid = shape.size, shape.grid
        self.pe_layer = PositionCode3d(shape.channels // 3)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, shape.channels) for _ in range(2))  # outside, inside
        self.not_a_point_embed = nn.Embedding(1, shape.channels)
        self.mask_downscaling = nn.Sequential(
            nn.Conv3d(1, MASK_CHANNELS // 4, kernel_size=2, stride=2),
            LayerNorm3d(MASK_CHANNELS // 4),
            nn.GELU(),
            nn.Conv3d(MASK_CHANNELS // 4, MASK_CHANNELS, kernel_size=2, stride=2),
            LayerNorm3d(MASK_CHANNELS),
            nn.GELU(),
            nn.Conv3d(MASK_CHANNELS, shape.channels, kernel_size=1),
        )
        # Part of the published layout; training and prediction always hand in a mask, an empty one at first.
        self.no_mask_embed = nn.Embedding(1, shape.channels)

    def forward(
        self, points: torch.Tensor, inside: torch.Tensor, mask_logits: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed prompts.

        Args:
            points: (B, K, 3) voxels, counted along the patch's three axes.
            inside: (B, K) bool, whether a click is in the structure.
            mask_logits: (B, 1, 4g, 4g, 4g) of the clicks before, zeros before the first; None is no mask.
        """
        codes = self.pe_layer((points + 0.5) / self.size)  # centres of voxels
        kinds = torch.where(inside[..., None], self.point_embeddings[1].weight, self.point_embeddings[0].weight)
        padding = self.not_a_point_embed.weight.expand(len(points), 1, -1)  # SAM's, where there is no box
        sparse = torch.cat([codes + kinds, padding], dim=1)
        if mask_logits is not None:
            return sparse, self.mask_downscaling(mask_logits)
        dense = self.no_mask_embed.weight.reshape(1, -1, 1, 1, 1)
        return sparse, dense.expand(len(points), -1, self.grid, self.grid, self.grid)

    def dense_positions(self) -> torch.Tensor:
        """Codes (1, C, g, g, g) of the embedding's places.

        The published network was trained with the first two axes of these codes exchanged, while those of clicks are
        not. Its weights have learned that, so it is kept.
        """
        device = self.not_a_point_embed.weight.device
        line = (torch.arange(self.grid, device=device, dtype=torch.float32) + 0.5) / self.grid
        first, second, third = torch.meshgrid(line, line, line, indexing="ij")
        return self.pe_layer(torch.stack([second, first, third], dim=-1)).permute(3, 0, 1, 2)[None]


class PositionCode3d(nn.Module):
    """Random Fourier features (Tancik et al. 2020) of places in [0, 1]^3.

    SAM's sine and cosine fill the channels in two halves; a third part, the sine once more, makes them divide by 3.

    Args:
        features: a third of the channels.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(3, features))

    def forward(self, places: torch.Tensor) -> torch.Tensor:
        """(..., 3) in [0, 1] -> (..., 3 * features)."""
        with torch.autocast(places.device.type, enabled=False):  # angles need more than 8 bits
            angles = 2 * math.pi * ((2 * places.float() - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos(), angles.sin()], dim=-1)
