"""The backbone ``tiny_sam``: a SAM-type network for tests and smoke runs. Milliseconds a pass, no useful weights."""

from __future__ import annotations

from itertools import pairwise

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import nn

from samdpo.networks.backbones.sam_modules import input_size
from samdpo.networks.sam import SamNetwork
from samdpo.plans import NetworkPlan

WIDTHS = (16, 24, 32, 48)  # channels after each stage
SIZE = 256  # pixels, where the plan says nothing else
PATCH = 4  # pixels of a pixel of the embedding
CHANNELS = 64  # of the embedding; LiteMedSAM has 256


class TinyEncoder(nn.Module):
    """Four convolutional stages under TinyViT's names: images (B, 3, H, W) -> (B, 64, H / 4, W / 4).

    Args:
        norm: of the embedding's channels.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.patch_embed = _block(3, WIDTHS[0], kernel_size=7, stride=PATCH, padding=3)
        widths = (WIDTHS[0], *WIDTHS)
        self.layers = nn.ModuleList(_block(a, b, kernel_size=3, padding=1) for a, b in pairwise(widths))
        self.neck = nn.Sequential(nn.Conv2d(WIDTHS[-1], CHANNELS, kernel_size=1), norm)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] -> (B, 64, H / 4, W / 4)."""
        x = self.patch_embed(images)
        for layer in self.layers:
            x = layer(x)
        return self.neck(x)


def _block(n_in: int, n_out: int, **settings: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out, **settings), nn.BatchNorm2d(n_out), nn.GELU())


def build_tiny_sam(plan: NetworkPlan, pretrained: bool) -> SamNetwork:
    """SAM's modules at reduced depth and width behind :class:`TinyEncoder`; 0.2 M parameters, of any input size.

    There are no published weights: ``pretrained`` is ignored and the weights are those of one fixed seed.
    """
    size = input_size(plan, SIZE, PATCH)
    grid = (size // PATCH, size // PATCH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = TinyEncoder(LayerNorm2d(CHANNELS))
        prompt_encoder = PromptEncoder(
            embed_dim=CHANNELS, image_embedding_size=grid, input_image_size=(size, size), mask_in_chans=16
        )
        transformer = TwoWayTransformer(depth=1, embedding_dim=CHANNELS, num_heads=2, mlp_dim=128)
        decoder = MaskDecoder(transformer_dim=CHANNELS, transformer=transformer, iou_head_hidden_dim=32)
    return SamNetwork(encoder, prompt_encoder, decoder, plan.text_dim)
