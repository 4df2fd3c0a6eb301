"""TinyViT as LiteMedSAM and MobileSAM have it: the published modules' weights and names, computed faster.

Three things make the published forward slow on a CPU (one thread, LiteMedSAM, 256 pixels): GELU takes a fifth of the
time, BatchNorm in eval mode a tenth, and 1x1 convolutions fall off oneDNN. Here

- BatchNorm, which is in eval mode always (see :class:`samdpo.networks.sam.SamNetwork`), is folded into its
  convolution in every pass: a few thousand multiplications, no copy of the weights that could be stale, and the
  gradients still reach the published parameters;
- pixels keep their channels last from the first layer to the neck, so that a 1x1 convolution is a matrix product;
- where no gradient is wanted, GELU is computed by oneDNN in the same pass as its convolution, while the values are
  in the cache;
- the widest layer runs in strips of rows whose activations fit into the cache.

The result is that of the published modules up to rounding (``tests/networks/backbones/test_tiny_vit.py``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from samdpo.networks.fused import convolved, linear_gelu

STRIP_ROWS = 16  # of an inverted bottleneck on a CPU: 256 channels of 16 x 256 pixels are 4 MiB


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


class PatchEmbedding(nn.Module):
    """Two convolutions from pixels to the first layer's channels; takes over TinyViT's ``PatchEmbed``."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.seq = original.seq

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) -> (B, C, h, w), channels last in memory."""
        first, _, second = self.seq
        return normed(second, normed(first, images.contiguous(memory_format=torch.channels_last), gelu=True))


class InvertedBottleneck(nn.Module):
    """1x1, depthwise 3x3 and 1x1 convolution with a shortcut; takes over TinyViT's ``MBConv``."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = original.conv1, original.conv2, original.conv3
        self.drop_path = original.drop_path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W), channels last in memory, to the same."""
        folded = [fold(part) for part in (self.conv1, self.conv2, self.conv3)]
        height = x.shape[2]
        rows = STRIP_ROWS if x.device.type == "cpu" else height
        strips = [self._strip(x, start, min(start + rows, height), folded) for start in range(0, height, rows)]
        return torch.cat(strips, dim=2) if len(strips) > 1 else strips[0]

    def _strip(
        self, x: torch.Tensor, start: int, stop: int, folded: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of the output, from one more input row on either side where there is one."""
        height = x.shape[2]
        above, below = int(start > 0), int(stop < height)
        hidden = convolved(self.conv1.c, x[:, :, start - above : stop + below], *folded[0], gelu=True)
        if not (above and below):  # outside of the image it is zero after the first convolution, as published
            hidden = F.pad(hidden, (0, 0, 1 - above, 1 - below)).contiguous(memory_format=torch.channels_last)
        hidden = convolved(self.conv2.c, hidden, *folded[1], gelu=True, padding=(0, 1))
        hidden = convolved(self.conv3.c, hidden, *folded[2])
        return F.gelu(x[:, :, start:stop] + self.drop_path(hidden))


class PatchMerging(nn.Module):
    """1x1, depthwise 3x3 and 1x1 convolution between layers; takes over TinyViT's ``PatchMerging``."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.input_resolution = original.input_resolution
        self.conv1, self.conv2, self.conv3 = original.conv1, original.conv2, original.conv3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels (B, C, H, W) or tokens (B, H * W, C) -> tokens (B, H' * W', C')."""
        if x.ndim == 3:
            x = x.unflatten(1, self.input_resolution).permute(0, 3, 1, 2)
        x = normed(self.conv3, normed(self.conv2, normed(self.conv1, x, gelu=True), gelu=True))
        return x.permute(0, 2, 3, 1).flatten(1, 2)


class Block(nn.Module):
    """Attention in windows, a depthwise convolution, an MLP; takes over ``TinyViTBlock``."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.input_resolution, self.window_size = original.input_resolution, original.window_size
        self.drop_path, self.attn = original.drop_path, WindowAttention(original.attn)
        self.mlp, self.local_conv = original.mlp, original.local_conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (B, H * W, C) to the same."""
        x = x.unflatten(1, self.input_resolution)
        x = x + self.drop_path(self._attended(x))
        x = normed(self.local_conv, x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        normal, first = self.mlp.norm(x), self.mlp.fc1
        plain = type(first) is nn.Linear  # one with low-rank matrices computes more than a product
        hidden = linear_gelu(normal, first.weight, first.bias) if plain else F.gelu(first(normal))
        return (x + self.drop_path(self.mlp.drop(self.mlp.fc2(self.mlp.drop(hidden))))).flatten(1, 2)

    def _attended(self, x: torch.Tensor) -> torch.Tensor:
        """Attention inside windows of (B, H, W, C); the last row and column of windows are padded with zeros."""
        (height, width), side = x.shape[1:3], self.window_size
        if (height, width) == (side, side):
            return self.attn(x.flatten(1, 2)).view_as(x)
        below, right = -height % side, -width % side
        x = F.pad(x, (0, 0, 0, right, 0, below))
        windows = x.unflatten(1, (-1, side)).unflatten(3, (-1, side)).transpose(2, 3)  # B, rows, columns, side, side, C
        attended = self.attn(windows.reshape(-1, side * side, x.shape[-1])).view_as(windows)
        return attended.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]


class Neck(nn.Sequential):
    """1x1 and 3x3 convolution to the embedding's channels, each normalised over channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, 256, h, w)."""
        first, first_norm, second, second_norm = self
        x = channel_norm(first_norm, convolved(first, x, first.weight, None))
        # Of this convolution alone oneDNN is faster with the weight's channels last too.
        weight = second.weight.contiguous(memory_format=torch.channels_last)
        return channel_norm(second_norm, convolved(second, x, weight, None))


def use_fast_modules(encoder: nn.Module) -> None:
    """Put the modules above in place of a published TinyViT's, in place; weights and their names stay."""
    encoder.patch_embed = PatchEmbedding(encoder.patch_embed)
    for number, layer in enumerate(encoder.layers):
        make = InvertedBottleneck if number == 0 else Block
        layer.blocks = nn.ModuleList(make(block) for block in layer.blocks)
        if layer.downsample is not None:
            layer.downsample = PatchMerging(layer.downsample)
    encoder.neck = Neck(*encoder.neck)


def fold(part: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution ``part.c`` with the BatchNorm ``part.bn`` behind it, in eval mode."""
    norm = part.bn
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return part.c.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


def normed(part: nn.Module, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
    """TinyViT's ``Conv2d_BN``, by the published running statistics, and GELU if wanted."""
    return convolved(part.c, x, *fold(part), gelu=gelu)


def channel_norm(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """SAM's ``LayerNorm2d`` of (B, C, H, W) whose channels are last in memory."""
    return F.layer_norm(x.permute(0, 2, 3, 1), norm.weight.shape, norm.weight, norm.bias, norm.eps).permute(0, 3, 1, 2)
