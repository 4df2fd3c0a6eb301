"""SAM's own modules as an independent reference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from samdpo.networks.prompt_batch import PromptBatch

MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))


def as_sam_sees(images: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1] as ``segment_anything.Sam.preprocess`` gives them, but for the padding."""
    return (images * 255 - MEAN) / STD


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Weights away from the zeros and ones at which a network begins and hides what is wrong."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "rel_pos" in name or "pos_embed" in name or parameter.ndim == 1:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)


def adapter_by_hand(state: dict[str, torch.Tensor], prefix: str, x: torch.Tensor) -> torch.Tensor:
    """SAM-Med2D's adapter from its published weights, (B, h, w, C) -> (B, h, w, C), written with functions alone."""
    weights = {key: state[f"{prefix}.{key}.weight"] for key in ("channel.0", "channel.2", "spatial.0", "spatial.2")}
    x = x.permute(0, 3, 1, 2)
    pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
    gate = torch.sigmoid(F.relu(pooled @ weights["channel.0"].T) @ weights["channel.2"].T)
    inner = F.relu(F.conv2d(gate[:, :, None, None] * x, weights["spatial.0"], stride=2, padding=1))
    inner = F.relu(F.conv_transpose2d(inner, weights["spatial.2"], stride=2, padding=1))
    out = (x + inner).permute(0, 2, 3, 1)
    return F.layer_norm(out, out.shape[-1:], state[f"{prefix}.norm.weight"], state[f"{prefix}.norm.bias"], 1e-5)


def encode_with_adapters(reference: ImageEncoderViT, state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """SAM's ViT, block by block, with :func:`adapter_by_hand` in each: images as SAM sees them -> embeddings.

    What the adapter adds is found from the block's own result: x + mlp(n) is what ``segment_anything`` computes.
    """
    x = reference.patch_embed(x) + reference.pos_embed
    for i, block in enumerate(reference.blocks):
        normed = []
        handle = block.norm2.register_forward_hook(lambda module, args, output, seen=normed: seen.append(output))
        without = block(x)
        handle.remove()
        x = without + adapter_by_hand(state, f"blocks.{i}.Adapter", normed[0])
    return reference.neck(x.permute(0, 3, 1, 2))


def one_image(side: int) -> torch.Tensor:
    """(1, 3, side, side) in [0, 1]."""
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def sam_masks(
    prompt_encoder: nn.Module, mask_decoder: nn.Module, embedding: torch.Tensor, boxes: torch.Tensor
) -> torch.Tensor:
    """SAM's own path from boxes (N, 4) in the encoder's pixels to logits (N, 4h, 4w)."""
    sparse, dense = prompt_encoder(points=None, boxes=boxes, masks=None)
    return mask_decoder(
        image_embeddings=embedding,
        image_pe=prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )[0][:, 0]


def box_prompts(boxes: torch.Tensor, size: int | tuple[int, int], text_dim: int) -> PromptBatch:
    """Boxes (N, 4) alone, in slices of ``size`` pixels (a side, or height and width), all of the first image."""
    n, shape = len(boxes), (size, size) if isinstance(size, int) else size
    return PromptBatch(
        image_index=torch.zeros(n, dtype=torch.long),
        boxes=boxes[:, None],
        boxes_valid=torch.ones(n, 1, dtype=torch.bool),
        points=torch.zeros(n, 0, 2),
        points_valid=torch.zeros(n, 0, dtype=torch.bool),
        text=torch.zeros(n, text_dim),
        text_valid=torch.zeros(n, dtype=torch.bool),
        mask_logits=torch.zeros(n, *shape),
        mask_valid=torch.zeros(n, dtype=torch.bool),
    )
