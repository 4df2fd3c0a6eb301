"""TinyViT's window attention without its cache of position biases."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class WindowAttention(nn.Module):
    """Attention inside a window with learned biases by offset; takes over the weights of TinyViT's ``Attention``.

    The original keeps the gathered biases in a buffer ``ab`` that is made when eval mode is entered. Weights loaded
    or stepped afterwards leave it stale, and training in eval mode gives the biases no gradient. Here the biases
    are gathered in every pass, which costs nothing that can be measured.

    Args:
        original: TinyViT's ``Attention``; its modules are shared and keep their names in the state dict.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.value_dim = original.num_heads, original.key_dim, original.d
        self.norm, self.qkv, self.proj = original.norm, original.qkv, original.proj
        self.attention_biases = original.attention_biases
        self.register_buffer("attention_bias_idxs", original.attention_bias_idxs, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens of windows (W, T, C) -> (W, T, C)."""
        qkv = self.qkv(self.norm(x)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        q, k, v = qkv.split([self.head_dim, self.head_dim, self.value_dim], dim=-1)
        bias = self.attention_biases[:, self.attention_bias_idxs].to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        return self.proj(mixed.transpose(1, 2).flatten(2))


def replace_window_attention(encoder: nn.Module) -> None:
    """Put :class:`WindowAttention` in place of every cached attention of a TinyViT, in place."""
    for module in encoder.modules():
        if hasattr(getattr(module, "attn", None), "attention_biases"):
            module.attn = WindowAttention(module.attn)
