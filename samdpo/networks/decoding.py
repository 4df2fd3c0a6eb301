"""SAM's mask decoder for many prompts of many images at once.

SAM's own forward repeats one image's embedding for all prompts, computes four masks of which one is used, and lets
absent prompts take part in the attention as padding tokens. The functions here run the same modules with the same
weights on any mix of images and prompts, for the one mask that is wanted, and leave absent tokens out of the
attention, so that what a prompt gives does not depend on what else is in the batch, but for rounding. (Padding is not
harmless to a network that was trained on boxes alone: eight padding tokens beside the true box take LiteMedSAM from
Dice .92 to .61 on ten breast ultrasounds.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from samdpo.networks.fused import linear_gelu
from samdpo.networks.precision import runs_in_float32

CPU_PROMPTS = 2  # decoded at once on a CPU: more leave the cache between layers


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
        image: (N, C, h, w), image embedding plus dense prompt, one row per prompt; (1, C, h, w) where all prompts have
            the same, which spares the first layer's work on it.
        image_pe: (1, C, h, w), positions of the grid.
        sparse: (N, T, C), prompt tokens.
        sparse_valid: (N, T) bool; a token that is not valid has no influence.

    Returns:
        logits (N, 4h, 4w) and predicted quality (N,).
    """
    n, size = len(sparse), tuple(image.shape[-2:])
    grid, grid_pe = image.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    on_cpu = image.device.type == "cpu"
    if on_cpu:  # a token that no prompt has is left out at once; a GPU would have to be asked
        given = sparse_valid.any(0)
        sparse, sparse_valid = sparse[:, given], sparse_valid[:, given]
    tokens = torch.cat([own.expand(n, -1, -1), sparse.to(own.dtype)], dim=1)
    valid = F.pad(sparse_valid, (len(own), 0), value=True)[:, None, None, :]  # broadcasts over heads and queries
    shared = len(grid) == 1 and n > 1
    grid = grid[:n]  # nothing of an image that no prompt asks about
    first = _layer_projections(decoder.transformer.layers[0], grid, grid_pe) if shared else None
    at_once = CPU_PROMPTS if on_cpu else max(n, 1)
    parts = []
    for begin in range(0, max(n, 1), at_once):
        rows = slice(begin, begin + at_once)
        own_grid = grid if shared else grid[rows]
        mixed, decoded = two_way_transformer(decoder.transformer, own_grid, grid_pe, tokens[rows], valid[rows], first)
        # Token 0 is the quality's, token 1 the single mask's.
        kernel = decoder.output_hypernetworks_mlps[0](mixed[:, 1])
        logits = upscale_and_project(decoder.output_upscaling, decoded, kernel, size)
        parts.append((logits, decoder.iou_prediction_head(mixed[:, 0])[:, 0]))
    return tuple(torch.cat(part) for part in zip(*parts)) if len(parts) > 1 else parts[0]


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
    transformer: nn.Module,
    grid: torch.Tensor,
    grid_pe: torch.Tensor,
    tokens: torch.Tensor,
    valid: torch.Tensor,
    first: tuple[torch.Tensor, ...] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """SAM's ``TwoWayTransformer`` where some tokens are left out.

    Args:
        transformer: gives layers and weights.
        grid: (N, h*w, C), image side; (1, h*w, C) with ``first``.
        grid_pe: (1, h*w, C), its positions.
        tokens: (N, T, C), prompt side; serves as its own position embedding, as in SAM.
        valid: (N, 1, 1, T) bool, tokens that may be attended to.
        first: what the first layer's projections make of a grid that all prompts share.

    Returns:
        tokens (N, T, C) and grid (N, h*w, C).
    """
    queries, folds = tokens, folds_into_tokens(transformer.final_attn_token_to_image, grid, tokens)
    for number, layer in enumerate(transformer.layers):
        if layer.skip_first_layer_pe:
            queries = attend(layer.self_attn, queries, queries, queries, valid)
        else:
            placed = queries + tokens
            queries = queries + attend(layer.self_attn, placed, placed, queries, valid)
        queries = layer.norm1(queries)
        to_image, to_token = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        projected = first if number == 0 else None
        if projected is None and not folds:
            projected = _layer_projections(layer, grid, grid_pe)
        if projected is None:
            seen = attend_to_grid(to_image, queries + tokens, grid, grid_pe)
        else:
            seen = attend_projected(to_image, to_image.q_proj(queries + tokens), *_repeated(projected[:2], len(tokens)))
        queries = layer.norm2(queries + seen)
        queries = layer.norm3(queries + layer.mlp(queries))
        if folds:
            query = None if projected is None else projected[2]
            told = attend_from_grid(to_token, grid, grid_pe, queries + tokens, queries, valid, query)
        else:
            k, v = to_token.k_proj(queries + tokens), to_token.v_proj(queries)
            told = attend_projected(to_token, *_repeated(projected[2:], len(tokens)), k, v, valid)
        grid = layer.norm4(grid + told)
    last = transformer.final_attn_token_to_image
    if folds:
        final = attend_to_grid(last, queries + tokens, grid, grid_pe)
    else:
        key, value = image_projections(grid, grid_pe, placed=(last.k_proj,), plain=last.v_proj)
        final = attend_projected(last, last.q_proj(queries + tokens), key, value)
    return transformer.norm_final_attn(queries + final), grid


def _layer_projections(layer: nn.Module, grid: torch.Tensor, grid_pe: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Keys and values that a layer's tokens meet in the grid, and the queries that the grid puts to them."""
    to_image, to_token = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    return image_projections(grid, grid_pe, placed=(to_image.k_proj, to_token.q_proj), plain=to_image.v_proj)


def _repeated(projected: Sequence[torch.Tensor], n: int) -> list[torch.Tensor]:
    """(1, h*w, C') of a grid that all prompts share -> (n, h*w, C') views; (n, h*w, C') as they are."""
    return [one.expand(n, -1, -1) for one in projected]


def folds_into_tokens(attention: nn.Module, grid: torch.Tensor, tokens: torch.Tensor) -> bool:
    """Whether the grid's projections are cheaper folded into the tokens.

    A projection of h*w pixels to C' channels costs as much as a product with C' tokens of a single head; folded into
    the T tokens of H heads it costs as much as one with T H, and the softmax leaves the fused kernel. On a CPU a box
    (T = 7) is decoded 1.5 times as fast, and nothing is gained from 13 tokens on; on a GPU the fused kernels win.
    """
    few = 4 * attention.num_heads * tokens.shape[1] <= 3 * attention.q_proj.out_features
    return few and grid.device.type == "cpu" and runs_in_float32(grid)


def attend_to_grid(
    attention: nn.Module, queries: torch.Tensor, grid: torch.Tensor, grid_pe: torch.Tensor
) -> torch.Tensor:
    """Few tokens attend to many pixels: as :func:`attend`, whose product with the pixels' keys and values it reorders.

    q (W x) = (q W) x, and the sum over pixels of a W x is W times the sum of a x: the pixels x themselves are never
    projected.

    Args:
        attention: as :func:`attend` has it.
        queries: (N, T, C), with their positions.
        grid: (N, h*w, C).
        grid_pe: (1, h*w, C), positions, which keys have and values do not.

    Returns:
        (N, T, C).
    """
    heads = attention.num_heads
    q = _heads(attention.q_proj(queries), heads)  # (N, H, T, d)
    q = q * q.shape[-1] ** -0.5
    by_pixel = (q @ attention.k_proj.weight.unflatten(0, (heads, -1))).flatten(1, 2)  # (N, H T, C)
    scores = torch.bmm(by_pixel, grid.transpose(1, 2)).unflatten(1, (heads, -1))
    scores = scores + q @ _heads(attention.k_proj(grid_pe), heads).transpose(-1, -2)
    mixed = torch.bmm(scores.softmax(-1).flatten(1, 2), grid).unflatten(1, (heads, -1))  # (N, H, T, C)
    values = mixed @ attention.v_proj.weight.unflatten(0, (heads, -1)).transpose(1, 2)  # (N, H, T, d)
    return attention.out_proj(values.transpose(1, 2).flatten(2) + attention.v_proj.bias)


def attend_from_grid(
    attention: nn.Module,
    grid: torch.Tensor,
    grid_pe: torch.Tensor,
    placed: torch.Tensor,
    tokens: torch.Tensor,
    valid: torch.Tensor,
    query: torch.Tensor | None = None,
) -> torch.Tensor:
    """Many pixels attend to few tokens; neither the pixels' queries nor what they mix is projected.

    Args:
        attention: as :func:`attend` has it.
        grid: (N, h*w, C).
        grid_pe: (1, h*w, C), positions, which queries have.
        placed: (N, T, C), tokens with their positions.
        tokens: (N, T, C), without.
        valid: (N, 1, 1, T) bool, tokens that may be attended to.
        query: (1, h*w, C'), the pixels' queries where they are known already, since all prompts share them.

    Returns:
        (N, h*w, C).
    """
    heads = attention.num_heads
    k, v = _heads(attention.k_proj(placed), heads), _heads(attention.v_proj(tokens), heads)
    k = k * k.shape[-1] ** -0.5
    if query is None:
        query_weight = attention.q_proj.weight.unflatten(0, (heads, -1))  # (H, d, C)
        by_token = (k @ query_weight).flatten(1, 2)  # (N, H T, C)
        of_positions = _heads(attention.q_proj(grid_pe), heads) @ k.transpose(-1, -2)  # (N, H, h*w, T), with the bias
        scores = torch.bmm(grid, by_token.transpose(1, 2)).unflatten(-1, (heads, -1)) + of_positions.transpose(1, 2)
    else:
        scores = (_heads(query, heads) @ k.transpose(-1, -2)).transpose(1, 2)
    if not bool(valid.all()):
        scores = scores.masked_fill(~valid, -torch.inf)
    out_weight = attention.out_proj.weight.unflatten(1, (heads, -1)).permute(1, 2, 0)  # (H, d, C)
    return torch.baddbmm(
        attention.out_proj.bias[None, None], scores.softmax(-1).flatten(2), (v @ out_weight).flatten(1, 2)
    )


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(N, S, H d) -> (N, H, S, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


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
    q, k, v = (_heads(x, attention.num_heads) for x in (query, key, value))
    if len(q) or not q.is_cuda:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=valid)
    else:  # no prompt: the kernels of a GPU refuse an empty batch
        mixed = q + 0 * (k.sum() + v.sum())
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))
