"""Attention over a cube of tokens with relative positions, in windows or over all of it.

A window that reaches beyond the grid is filled with zero tokens, as in SAM's ViT. SAM-Med3D has windows of 14 on a grid
of 8, so 4 of 5 tokens of a window are filling. Their queries, keys and values are the projection's bias, and nobody
asks what they attend to: only real tokens attend, which gives the same result from a fifth of the work.

Relative positions are meant to be decomposed by axis (Li et al. 2022, MViTv2, Sec. 4.1). The published network adds
them otherwise, by what seems to be a slip in the order of axes: see :meth:`Attention3d.positions`. Its weights were
trained with that and only work with it, so it is the same here.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import nn


class Attention3d(nn.Module):
    """Multi-head attention with relative positions.

    Args:
        width: of a token.
        heads: that divide it.
        span: side of the cube that attends to itself: the window's, or the grid's for global attention.
    """

    def __init__(self, width: int, heads: int, span: int) -> None:
        super().__init__()
        self.heads, self.span = heads, span
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rel_pos_d, self.rel_pos_h, self.rel_pos_w = (
            nn.Parameter(torch.zeros(2 * span - 1, width // heads)) for _ in range(3)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, D, H, W, C) -> the same shape."""
        sides = tokens.shape[1:4]
        if max(sides) <= self.span:
            return self._attend(tokens)
        attended = torch.zeros_like(tokens)
        for corner in product(*(range(0, side, self.span) for side in sides)):
            window = (slice(None), *(slice(start, start + self.span) for start in corner))
            attended[window] = self._attend(tokens[window]).to(attended.dtype)
        return attended

    def _attend(self, tokens: torch.Tensor) -> torch.Tensor:
        """One window, (B, d, h, w, C), none of d, h and w above the span."""
        batch, d, h, w, width = tokens.shape
        weight, bias = self.qkv.weight, self.qkv.bias
        # One row of queries is filled: the published sum of positions asks filling tokens of the same row.
        row = _filled(F.linear(tokens, weight[:width]), (0, 0, 0, self.span - w), bias[:width])
        row = row.unflatten(-1, (self.heads, -1)).permute(0, 4, 1, 2, 3, 5)  # (B, heads, d, h, span, c)
        filling = (0, 0, 0, self.span - w, 0, self.span - h, 0, self.span - d)
        pairs = _filled(F.linear(tokens, weight[width:]), filling, bias[width:])
        keys, values = pairs.flatten(1, 3).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries = row[..., :w, :].flatten(2, 4)
        attended = F.scaled_dot_product_attention(queries, keys, values, self.positions(row, w).to(queries.dtype))
        return self.proj(attended.transpose(1, 2).reshape(batch, d, h, w, width))

    def positions(self, row: torch.Tensor, w: int) -> torch.Tensor:
        """What relative positions add to the logits of real queries.

        With q(d, h, w) the query of a token and D, H, W the tables, the logit of query (d, h, w) and key (d', h', w')
        gets ``q(d, h, w) D[d - w'] + q(d, h, d') H[h - w'] + q(d, h, h') W[h' - w']``.

        Args:
            row: queries (B, heads, d, h, span, c), filled along the last axis of places.
            w: how many of them are real.

        Returns:
            (B, heads, d h w, span^3).
        """
        d, h = row.shape[2:4]
        of_d = torch.einsum("bndhwc,dkc->bndhwk", row[..., :w, :], self._table(self.rel_pos_d, d))
        of_h = torch.einsum("bndhwc,hkc->bndhwk", row, self._table(self.rel_pos_h, h))
        of_w = torch.einsum("bndhwc,wkc->bndhwk", row, self._table(self.rel_pos_w, self.span))
        keys = of_h[..., :, None, :] + of_w[..., None, :, :]  # (B, heads, d, h, span, span, span)
        added = of_d[..., None, None, :] + keys[:, :, :, :, None]
        return added.flatten(5).flatten(2, 4)

    def _table(self, table: torch.Tensor, n: int) -> torch.Tensor:
        """Entries of a table (2 span - 1, c) by a first place of n and a second of the span: (n, span, c)."""
        first, second = torch.arange(n, device=table.device), torch.arange(self.span, device=table.device)
        return table[first[:, None] - second[None] + self.span - 1]


def _filled(projected: torch.Tensor, filling: tuple[int, ...], bias: torch.Tensor) -> torch.Tensor:
    """Tokens projected without the bias, and zero tokens around them, all with the bias; in the projection's type."""
    return F.pad(projected, filling) + bias.to(projected.dtype)
