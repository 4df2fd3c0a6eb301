"""The backbone ``sam_med2d_b``: SAM-Med2D, the paper's network. SAM's ViT-B at 256 pixels, with adapters or without.

An adapter is a small network parallel to the MLP of every block. Cheng et al. 2023, "SAM-Med2D", Sec. 3.2; the
arrangement inside a block and the names of the weights are those of the published checkpoint.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import Block, ImageEncoderViT, window_partition, window_unpartition
from torch import nn

from samdpo.networks.backbones.sam_modules import PATCH, VIT_B, input_size
from samdpo.networks.backbones.sam_vit import build_vit
from samdpo.networks.published.loading import load_published
from samdpo.networks.sam import SAM_PIXEL_MEAN, SAM_PIXEL_STD, SamNetwork, SliceInput
from samdpo.plans import NetworkPlan

SIZE = 256
REDUCTION = 4  # of the channels inside the channel gate


class Adapter(nn.Module):
    """A gate on the channels, then convolutions over a grid of half the size, added to what came in and normalised.

    Args:
        dim: channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = dim // REDUCTION
        self.channel = nn.Sequential(
            nn.Linear(dim, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, dim, bias=False), nn.Sigmoid()
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(dim, dim, kernel_size=3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(dim, dim, kernel_size=4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, h, w, C) with even h and w -> (B, h, w, C)."""
        gate = self.channel(x.mean((1, 2)))
        gated = (x * gate[:, None, None]).permute(0, 3, 1, 2)
        return self.norm(x + self.spatial(gated).permute(0, 2, 3, 1))


class AdapterBlock(nn.Module):
    """A block of SAM's ViT with an adapter beside its MLP.

    Args:
        original: ``segment_anything``'s block; its modules are shared and keep their names in the state dict.
    """

    def __init__(self, original: Block) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = original.norm1, original.attn, original.norm2, original.mlp
        self.window_size = original.window_size
        self.Adapter = Adapter(original.norm2.normalized_shape[0])  # the published weights' name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, h, w, C) -> (B, h, w, C)."""
        x = x + self._attend(self.norm1(x))
        normed = self.norm2(x)
        return x + self.mlp(normed) + self.Adapter(normed)

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        if self.window_size == 0:
            return self.attn(x)
        size = x.shape[1:3]
        windows, padded = window_partition(x, self.window_size)
        return window_unpartition(self.attn(windows), self.window_size, padded, size)


def add_adapters(encoder: ImageEncoderViT) -> None:
    """Put an adapter into every block of SAM's ViT, in place."""
    encoder.blocks = nn.ModuleList(AdapterBlock(block) for block in encoder.blocks)


def build_sam_med2d_b(plan: NetworkPlan, pretrained: bool) -> SamNetwork:
    """271.24 M parameters, 180.50 M of them in the adapters; without these it is what its authors call FT-SAM."""
    multiple = 2 * PATCH if plan.adapters else PATCH  # an adapter halves the grid and doubles it again
    network = build_vit(plan, VIT_B, SliceInput(input_size(plan, SIZE, multiple), SAM_PIXEL_MEAN, SAM_PIXEL_STD))
    if plan.adapters:
        add_adapters(network.image_encoder)
    return load_published(network, "sam_med2d_b" if plan.adapters else "ft_sam_b") if pretrained else network
