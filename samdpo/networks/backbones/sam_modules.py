"""SAM's modules at any input size, from ``segment_anything``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import nn

from samdpo.errors import PlansError
from samdpo.plans import NetworkPlan

PATCH = 16  # pixels of a ViT's token, and of a pixel of every SAM embedding
CHANNELS = 256  # of the embedding
SAM_SIZE = 1024  # input size at which SAM, MedSAM and MobileSAM were published


@dataclass(frozen=True)
class VitShape:
    """What tells SAM's ViTs apart (``segment_anything/build_sam.py``)."""

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]  # the others attend in windows
    window: int = 14


VIT_B = VitShape(768, 12, 12, (2, 5, 8, 11))
VIT_L = VitShape(1024, 24, 16, (5, 11, 17, 23))
VIT_H = VitShape(1280, 32, 16, (7, 15, 23, 31))


def vit_encoder(shape: VitShape, size: int) -> ImageEncoderViT:
    """SAM's ViT: images (B, 3, size, size) -> (B, 256, size / 16, size / 16)."""
    return ImageEncoderViT(
        img_size=size,
        patch_size=PATCH,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        out_chans=CHANNELS,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=shape.window,
        global_attn_indexes=shape.global_blocks,
    )


def prompt_encoder(size: int) -> PromptEncoder:
    """SAM's prompt encoder beside an encoder of ``size`` pixels; its weights have the same shapes at every size."""
    grid = (size // PATCH, size // PATCH)
    return PromptEncoder(
        embed_dim=CHANNELS, image_embedding_size=grid, input_image_size=(size, size), mask_in_chans=16
    )


def mask_decoder() -> MaskDecoder:
    """SAM's mask decoder; 4.06 M parameters."""
    transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=2048, num_heads=8)
    return MaskDecoder(
        transformer_dim=CHANNELS,
        transformer=transformer,
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )


def input_size(plan: NetworkPlan, default: int, multiple: int) -> int:
    """Side of the encoder's input in pixels: the plan's, or the backbone's own.

    Raises:
        PlansError: not a multiple of what the encoder needs.
    """
    size = plan.input_size or default
    if size < multiple or size % multiple:
        raise PlansError(
            f"'network.input_size' is {plan.input_size}; {plan.backbone} needs a multiple of {multiple}, or 0 for its "
            f"own {default}."
        )
    return size
