"""The backbone ``unet``: a plain 2D U-Net that knows nothing before it is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from samdpo.networks.outputs import structures_of
from samdpo.networks.prompt_free import PromptFreeNetwork
from samdpo.networks.registry import register_backbone
from samdpo.plans import NetworkPlan

# Half of nnU-Net's widths, so that one core trains it: 0.7 s for a step of four slices of 256 x 256 in bfloat16.
WIDTHS = (16, 32, 64, 128, 256, 256, 256)


class UNet(PromptFreeNetwork):
    """U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with nnU-Net's blocks (Isensee et al. 2021).

    Two 3 x 3 convolutions a stage, each with instance normalisation and leaky ReLU; strided convolutions down,
    transposed ones up; skip connections.

    Args:
        outputs: structures L; each has a logit of its own, so that structures may overlap.
        widths: channels of each stage, at half the resolution of the one before.
    """

    def __init__(self, outputs: int, widths: Sequence[int]) -> None:
        from dynamic_network_architectures.architectures.unet import PlainConvUNet
        from dynamic_network_architectures.initialization.weight_init import InitWeights_He

        super().__init__()
        n_stages = len(widths)
        self.multiple = 2 ** (n_stages - 1)
        self.body = PlainConvUNet(
            input_channels=3, n_stages=n_stages, features_per_stage=list(widths), conv_op=nn.Conv2d, kernel_sizes=3,
            strides=[1] + [2] * (n_stages - 1), n_conv_per_stage=2, num_classes=outputs, n_conv_per_stage_decoder=2,
            conv_bias=True, norm_op=nn.InstanceNorm2d, norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        )
        _remove_aliases(self.body)
        self.body.apply(InitWeights_He(1e-2))  # of leaky ReLU's slope, as nnU-Net

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """Slices (B, 3, H, W) in [0, 1] -> logits (B, L, H, W); sides need not be multiples of the stages' strides."""
        height, width = images.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        centred = 2 * images - 1
        if any(padding):
            centred = F.pad(centred, padding, mode="replicate")
        return self.body(centred)[..., :height, :width]


@register_backbone("unet")
def build_unet(plan: NetworkPlan, pretrained: bool) -> UNet:
    """A U-Net of 8.4 M parameters for ``plan.outputs`` structures.

    There are no published weights, so ``pretrained`` is ignored.

    Raises:
        PlansError: the plan does not say how many structures there are.
    """
    return UNet(structures_of(plan), WIDTHS)


def _remove_aliases(body: nn.Module) -> None:
    """Leave every module one name: the library keeps some of them twice, and a file of weights has each once."""
    del body.decoder.encoder  # used for nothing but measuring feature maps
    for module in body.modules():
        if hasattr(module, "all_modules"):  # what its forward runs; the others are names of its parts
            for name in [name for name, _ in module.named_children() if name != "all_modules"]:
                delattr(module, name)
