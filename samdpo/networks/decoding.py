"""SAM's mask decoder for many prompts of many images at once.

SAM's own forward repeats one image's embedding for all prompts, computes four masks of which one is used, and lets
absent prompts take part in the attention as padding tokens. The functions here run the same modules with the same
weights on any mix of images and prompts, for the one mask that is wanted, and leave absent tokens out of the
attention, so that what a prompt gives does not depend on what else is in the batch. (Padding is not harmless to a
network that was trained on boxes alone: eight padding tokens beside the true box take LiteMedSAM from Dice .92 to
.61 on ten breast ultrasounds.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from samdpo.networks.fused import linear_gelu

CPU_PROMPTS = 2  # decoded at once on a CPU


def decode_masks(
    decoder: nn.Module,
    image: torch.Tensor,
    image_pe: torch.Tensor,
    sparse: torch.Tensor,
    sparse_valid: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks of N prompts (SAM's single-mask output, mask token 0).

    Args:
        decoder: SAM's ``MaskDecoder``.
        image: (N, C, h, w), image embedding plus dense prompt, one row per prompt.
        image_pe: (1, C, h, w), positions of the grid.
        sparse: (N, T, C), prompt tokens.
        sparse_valid: (N, T) bool; a token that is not valid has no influence.

    Returns:
        logits (N, 4h, 4w) and predicted quality (N,).
    """
    if image.device.type == "cpu" and len(image) > CPU_PROMPTS:  # more leave the cache between layers
        parts = [
            decode_masks(decoder, image[i : i + CPU_PROMPTS], image_pe, sparse[i : i + CPU_PROMPTS],
                         sparse_valid[i : i + CPU_PROMPTS])
            for i in range(0, len(image), CPU_PROMPTS)
        ]
        return tuple(torch.cat(part) for part in zip(*parts))
    n, _, height, width = image.shape
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(n, -1, -1), sparse.to(own.dtype)], dim=1)
    valid = F.pad(sparse_valid, (len(own), 0), value=True)[:, None, None, :]  # broadcasts over heads and queries
    tokens, grid = two_way_transformer(
        decoder.transformer, image.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2), tokens, valid
    )
    kernel = decoder.output_hypernetworks_mlps[0](tokens[:, 1])  # token 0 is the quality's, token 1 the single mask's
    logits = upscale_and_project(decoder.output_upscaling, grid, kernel, (height, width))
    return logits, decoder.iou_prediction_head(tokens[:, 0])[:, 0]


def upscale_and_project(
    upscaling: nn.Sequential, grid: torch.Tensor, kernel: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """SAM's ``output_upscaling`` (two transposed convolutions of kernel and stride 2), then a weighted channel sum.

    Such a convolution maps every pixel to its own 2 x 2 block, so channels can stay last and the pixels are put in
    their places once, at the end, in a single channel: twice as fast on a CPU as the modules themselves.

    Args:
        upscaling: ConvTranspose2d, LayerNorm2d, GELU, ConvTranspose2d, GELU.
        grid: (N, h*w, C).
        kernel: (N, C'), weights of the upscaled channels.
        size: (h, w).

    Returns:
        (N, 4h, 4w).
    """
    first, norm, activation, second, _ = upscaling
    x = F.linear(grid, *block_weights(first)).unflatten(-1, (4, -1))  # (N, h*w, 4, C / 4)
    x = activation(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
    x = linear_gelu(x, *block_weights(second)).unflatten(-1, (4, -1))  # (N, h*w, 4, 4, C / 8)
    values = x.flatten(1, 3) @ kernel[..., None].to(x.dtype)
    height, width = size
    blocks = values.reshape(-1, height, width, 2, 2, 2, 2)  # row, column, their first and their second halves
    return blocks.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 4 * height, 4 * width)


def block_weights(convolution: nn.ConvTranspose2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (4 C', C) and bias of the linear layer that maps a pixel to its 2 x 2 block, row by row."""
    return convolution.weight.permute(2, 3, 1, 0).flatten(0, 2), convolution.bias.repeat(4)


def two_way_transformer(
    transformer: nn.Module, grid: torch.Tensor, grid_pe: torch.Tensor, tokens: torch.Tensor, valid: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """SAM's ``TwoWayTransformer`` where some tokens are left out.

    Args:
        transformer: gives layers and weights.
        grid: (N, h*w, C), image side.
        grid_pe: (1, h*w, C), its positions.
        tokens: (N, T, C), prompt side; serves as its own position embedding, as in SAM.
        valid: (N, 1, 1, T) bool, tokens that may be attended to.

    Returns:
        tokens (N, T, C) and grid (N, h*w, C).
    """
    queries = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = attend(layer.self_attn, queries, queries, queries, valid)
        else:
            placed = queries + tokens
            queries = queries + attend(layer.self_attn, placed, placed, queries, valid)
        queries = layer.norm1(queries)
        to_image, to_token = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        key, value, query = image_projections(
            grid, grid_pe, placed=(to_image.k_proj, to_token.q_proj), plain=to_image.v_proj
        )
        queries = layer.norm2(queries + attend_projected(to_image, to_image.q_proj(queries + tokens), key, value))
        queries = layer.norm3(queries + layer.mlp(queries))
        k, v = to_token.k_proj(queries + tokens), to_token.v_proj(queries)
        grid = layer.norm4(grid + attend_projected(to_token, query, k, v, valid))
    last = transformer.final_attn_token_to_image
    key, value = image_projections(grid, grid_pe, placed=(last.k_proj,), plain=last.v_proj)
    final = attend_projected(last, last.q_proj(queries + tokens), key, value)
    return transformer.norm_final_attn(queries + final), grid


def image_projections(
    grid: torch.Tensor, grid_pe: torch.Tensor, placed: Sequence[nn.Linear], plain: nn.Linear
) -> tuple[torch.Tensor, ...]:
    """What the image gives to attention, in one product: a projection of positions is added, not positions.

    Args:
        grid: (N, h*w, C).
        grid_pe: (1, h*w, C), its positions.
        placed: projections of grid and positions together.
        plain: projection of the grid alone.

    Returns:
        (N, h*w, C') of the first of ``placed``, of ``plain``, then of the other ``placed``.
    """
    first, *others = placed
    parts = [first, plain, *others]
    weight = torch.cat([part.weight for part in parts])
    offset = [part.bias.expand(1, grid.shape[1], -1) if part is plain else part(grid_pe) for part in parts]
    together = F.linear(grid, weight) + torch.cat(offset, dim=-1)
    return together.split([part.out_features for part in parts], dim=-1)


def attend(
    attention: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    valid: torch.Tensor | None = None,
) -> torch.Tensor:
    """SAM's ``Attention`` through PyTorch's fused kernel.

    Args:
        attention: gives ``q_proj``, ``k_proj``, ``v_proj``, ``out_proj`` and ``num_heads``.
        query: (N, Q, C).
        key: (N, S, C).
        value: (N, S, C).
        valid: bool, broadcastable to (N, heads, Q, S); False is left out of the softmax.

    Returns:
        (N, Q, C).
    """

    return attend_projected(
        attention, attention.q_proj(query), attention.k_proj(key), attention.v_proj(value), valid
    )


def attend_projected(
    attention: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    valid: torch.Tensor | None = None,
) -> torch.Tensor:
    """As :func:`attend`, of what its projections gave already."""

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    q, k, v = heads(query), heads(key), heads(value)
    if len(q) or not q.is_cuda:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=valid)
    else:  # no prompt: the kernels of a GPU refuse an empty batch
        mixed = q + 0 * (k.sum() + v.sum())
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))
