"""Convolutions and linear layers with GELU behind them, computed in one pass where no gradient is wanted.

GELU alone is slow on a CPU: its values leave the cache and come back. oneDNN computes it while a convolution's result
is still there. The operator is the one that ``torch.compile`` emits; a PyTorch built without oneDNN (ARM) has none, and
the plain operations are computed there, as they are wherever gradients are wanted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from samdpo.networks.precision import runs_in_float32


def convolved(
    convolution: nn.Conv2d,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    gelu: bool = False,
    padding: tuple[int, int] | None = None,
) -> torch.Tensor:
    """A convolution with another weight and bias than its own, and GELU if wanted.

    Args:
        convolution: gives stride, padding, dilation and groups.
        x: (B, C, H, W), channels last in memory.
        weight: of the convolution's shape.
        bias: (C',) or None.
        gelu: whether GELU follows.
        padding: rows and columns instead of the convolution's own.
    """
    padding = convolution.padding if padding is None else padding
    if fuses(x, weight, bias):
        return torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, list(padding), list(convolution.stride), list(convolution.dilation), convolution.groups,
            "gelu" if gelu else "none", [], "none" if gelu else "",
        )
    if convolution.kernel_size == (1, 1) and convolution.stride == (1, 1) and tuple(padding) == (0, 0):
        x = F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    else:
        x = F.conv2d(x, weight, bias, convolution.stride, padding, convolution.dilation, convolution.groups)
    return F.gelu(x) if gelu else x


def linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """GELU of a linear layer: (B, H, W, C) -> (B, H, W, C').

    Args:
        x: pixels with their channels last.
        weight: (C', C).
        bias: (C',).
    """
    if not fuses(x, weight, bias):
        return F.gelu(F.linear(x, weight, bias))
    hidden = torch.ops.mkldnn._convolution_pointwise(  # oneDNN fuses a 1x1 convolution faster than a product
        x.permute(0, 3, 1, 2), weight[:, :, None, None], bias, [0, 0], [1, 1], [1, 1], 1, "gelu", [], "none"
    )
    return hidden.permute(0, 2, 3, 1)


def fuses(x: torch.Tensor, *parameters: torch.Tensor | None) -> bool:
    """Whether oneDNN computes a layer and what follows it in one pass: on a CPU, in float32, without gradients.

    Frozen leading stages of an encoder that trains are such a place too.
    """
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *parameters))
    return (
        x.device.type == "cpu"
        and not learns
        and runs_in_float32(x)
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and torch.backends.mkldnn.is_available()
    )
