"""The backbone ``sam_med2d_b``: SAM-Med2D, the paper's network. SAM's ViT-B at 256 pixels, with adapters or without."""

from __future__ import annotations

from samdpo.networks.backbones.adapter_block import add_adapters
from samdpo.networks.backbones.input_size import input_size
from samdpo.networks.backbones.sam_modules import PATCH, VIT_B
from samdpo.networks.backbones.sam_vit import build_vit
from samdpo.networks.published.loading import load_published
from samdpo.networks.sam import SamNetwork
from samdpo.networks.slice_input import SAM_PIXEL_MEAN, SAM_PIXEL_STD, SliceInput
from samdpo.plans import NetworkPlan

SIZE = 256


def build_sam_med2d_b(plan: NetworkPlan, pretrained: bool) -> SamNetwork:
    """271.24 M parameters, 180.50 M of them in the adapters; without these it is what its authors call FT-SAM."""
    multiple = 2 * PATCH if plan.adapters else PATCH  # an adapter halves the grid and doubles it again
    network = build_vit(plan, VIT_B, SliceInput(input_size(plan, SIZE, multiple), SAM_PIXEL_MEAN, SAM_PIXEL_STD))
    if plan.adapters:
        add_adapters(network.image_encoder)
    return load_published(network, "sam_med2d_b" if plan.adapters else "ft_sam_b") if pretrained else network
