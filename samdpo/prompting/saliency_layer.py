"""gScoreCAM's target layer in an image tower, and the way from its output to maps.

A ViT that is pooled by its CLS token works on every token alone after its last attention. Behind it, at the last
block's ``norm2`` for example, the patch tokens' gradient is therefore exactly zero, and channels chosen by it are
arbitrary. The output of the norm *before* the last attention is the last place where the patches still count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from samdpo.errors import ConfigurationError


@dataclass(frozen=True)
class SaliencyLayer:
    """Where activations and gradients are taken.

    Attributes:
        module: whose output they are of.
        prefix_tokens: tokens before those of the patches; None for a layer that gives maps (B, C, h, w).
    """

    module: nn.Module
    prefix_tokens: int | None

    def maps(self, output: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The layer's output for one image, (1, N, C) tokens or (1, C, h, w), as maps (C, h, w).

        Args:
            output: activations or their gradient.
            size: (H, W) of the tower's input, whose shape the grid of patches has.
        """
        if self.prefix_tokens is None:
            return output[0]
        patches = output[0, self.prefix_tokens :]
        rows = round((len(patches) * size[0] / size[1]) ** 0.5)
        return patches.T.unflatten(1, (rows, -1))


def find_saliency_layer(visual: nn.Module) -> SaliencyLayer:
    """The target layer of open_clip's image towers: timm's ViTs and CNNs, CLIP's own ViTs and ResNets.

    Raises:
        ConfigurationError: a tower of another kind.
    """
    trunk = getattr(visual, "trunk", visual)
    if hasattr(trunk, "blocks") and hasattr(trunk.blocks[-1], "norm1"):  # timm's ViT
        return SaliencyLayer(trunk.blocks[-1].norm1, trunk.num_prefix_tokens)
    if hasattr(visual, "transformer") and hasattr(visual.transformer, "resblocks"):  # CLIP's ViT
        return SaliencyLayer(visual.transformer.resblocks[-1].ln_1, 1)
    for name in ("layer4", "stages"):  # CLIP's ModifiedResNet and timm's ResNets; ConvNeXt and its kind
        if hasattr(trunk, name):
            return SaliencyLayer(getattr(trunk, name), None)
    raise ConfigurationError(
        f"The image tower {type(trunk).__name__} has no layer that gScoreCAM knows; expected a ViT, a ResNet or a "
        "ConvNeXt. Choose another 'prompting.image_text_model'."
    )
