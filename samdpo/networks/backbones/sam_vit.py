"""The backbones ``sam_vit_b``, ``sam_vit_l``, ``sam_vit_h`` and ``medsam_vit_b``: SAM's ViTs, by default at 256 pixels.

Published at 1024 pixels; their position tables are resampled, as SAM-Med2D did with SAM's.
"""

from __future__ import annotations

from samdpo.networks.backbones.sam_modules import (
    PATCH,
    VIT_B,
    VIT_H,
    VIT_L,
    VitShape,
    input_size,
    mask_decoder,
    prompt_encoder,
    vit_encoder,
)
from samdpo.networks.published.loading import load_published
from samdpo.networks.sam import SAM_PIXEL_MEAN, SAM_PIXEL_STD, SamNetwork, SliceInput
from samdpo.plans import NetworkPlan

SIZE = 256  # pixels; the published 1024 cost 16 times as many tokens, and global attention 256 times


def build_vit(plan: NetworkPlan, shape: VitShape, slice_input: SliceInput) -> SamNetwork:
    """SAM with a ViT of a shape, drawn at random.

    Args:
        plan: gives the text dimension.
        shape: of the ViT.
        slice_input: its size is the encoder's.
    """
    size = slice_input.size
    return SamNetwork(
        vit_encoder(shape, size), prompt_encoder(size), mask_decoder(), plan.text_dim, slice_input=slice_input
    )


def build_sam_vit_b(plan: NetworkPlan, pretrained: bool) -> SamNetwork:
    """SAM with ViT-B."""
    return _sam(plan, VIT_B, pretrained)


def build_sam_vit_l(plan: NetworkPlan, pretrained: bool) -> SamNetwork:
    """SAM with ViT-L."""
    return _sam(plan, VIT_L, pretrained)


def build_sam_vit_h(plan: NetworkPlan, pretrained: bool) -> SamNetwork:
    """SAM with ViT-H."""
    return _sam(plan, VIT_H, pretrained)


def build_medsam_vit_b(plan: NetworkPlan, pretrained: bool) -> SamNetwork:
    """MedSAM: SAM's ViT-B, finetuned on medical images in [0, 1] (its ``MedSAM_Inference.py``)."""
    network = build_vit(plan, VIT_B, SliceInput(input_size(plan, SIZE, PATCH)))
    return load_published(network, "medsam_vit_b") if pretrained else network


def _sam(plan: NetworkPlan, shape: VitShape, pretrained: bool) -> SamNetwork:
    network = build_vit(plan, shape, SliceInput(input_size(plan, SIZE, PATCH), SAM_PIXEL_MEAN, SAM_PIXEL_STD))
    return load_published(network, plan.backbone) if pretrained else network
