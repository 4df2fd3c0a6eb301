"""SAM-Med3D's image encoder: a ViT over cubes of voxels."""

from __future__ import annotations

import torch
from segment_anything.modeling.common import MLPBlock
from torch import nn

from samdpo.lab.sam_med3d.attention import Attention3d
from samdpo.lab.sam_med3d.layers import LayerNorm3d
from samdpo.lab.sam_med3d.shapes import Shape3d


class ImageEncoder3d(nn.Module):
    """Patches (B, 1, s, s, s) -> embedding (B, C, g, g, g), g = s / 16.

    Args:
        shape: of the network.
    """

    def __init__(self, shape: Shape3d) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed3d(shape.patch, shape.width)
        self.pos_embed = nn.Parameter(torch.empty(1, shape.grid, shape.grid, shape.grid, shape.width))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.ModuleList(
            Block3d(shape.width, shape.heads, shape.grid if i in shape.global_blocks else shape.window)
            for i in range(shape.depth)
        )
        self.neck = nn.Sequential(
            nn.Conv3d(shape.width, shape.channels, kernel_size=1, bias=False),
            LayerNorm3d(shape.channels),
            nn.Conv3d(shape.channels, shape.channels, kernel_size=3, padding=1, bias=False),
            LayerNorm3d(shape.channels),
        )

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Normalised patches (B, 1, s, s, s) -> (B, C, g, g, g)."""
        tokens = self.patch_embed(patches) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        return self.neck(tokens.permute(0, 4, 1, 2, 3))


class PatchEmbed3d(nn.Module):
    """Cubes of voxels to tokens: (B, 1, s, s, s) -> (B, g, g, g, C)."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(1, width, kernel_size=patch, stride=patch)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.proj(patches).permute(0, 2, 3, 4, 1)


class Block3d(nn.Module):
    """Attention and MLP, each behind a layer norm and beside a residual."""

    def __init__(self, width: int, heads: int, span: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention3d(width, heads, span)
        self.mlp = MLPBlock(width, 4 * width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, g, g, g, C) -> the same shape."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))
