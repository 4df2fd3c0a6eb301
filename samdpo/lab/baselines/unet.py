"""The baseline ``unet``: a plain 2D U-Net that knows nothing before it is trained on the labelled slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from samdpo.lab.baselines.prompt_free import MaskBatch, PromptFreeTrainer
from samdpo.networks.prompt_free import PromptFreeNetwork, structures_of
from samdpo.plans import NetworkPlan
from samdpo.preprocessing.store import SliceKey
from samdpo.training.finetune import batch_dice
from samdpo.training.loading import EpochSlices
from samdpo.training.trainer import Metrics

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


class UNetTrainer(PromptFreeTrainer):
    """U-Net (Ronneberger et al. 2015) with the loss and the epochs of nnU-Net (Isensee et al. 2021).

    An epoch is ``slices_per_epoch`` slices, however few there are: a network without published weights needs as many
    steps for six images as for a hundred.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.epoch_slices = RepeatedSlices(self.stage, self.processes.world)

    def configure_trainable(self) -> None:
        """Everything."""
        self.network.requires_grad_(True)

    def place(self, network: nn.Module) -> nn.Module:  # type: ignore[override]
        """Move the network to the device; instance normalisation is faster with channels first."""
        return network.to(self.device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with one rate."""
        return torch.optim.Adam(self.network.parameters(), lr=self.stage.lr)

    def train_step(self, batch: MaskBatch) -> Metrics:  # type: ignore[override]
        """One step on Dice and cross-entropy."""
        loss, metrics = self.replicated(self.step_loss, batch)
        self.optimizer_step(loss)
        return {"loss": loss.detach(), **metrics}

    def step_loss(self, batch: MaskBatch) -> tuple[torch.Tensor, Metrics]:
        """Loss of the batches of all processes, and what to log."""
        logits, truth = self.logits(batch), batch.truth.to(self.device)
        n = len(self.plans.structures)
        loss = dice_and_cross_entropy(logits, truth, n, batch.counted, self.processes.total)
        return loss, {"train_dice": batch_dice(logits.detach(), truth, batch.counted)}


class RepeatedSlices(EpochSlices):
    """``slices_per_epoch`` slices an epoch, again from the first in a new order where there are fewer."""

    def batches(
        self, keys: Sequence[SliceKey], epoch: int, generator: torch.Generator
    ) -> Iterator[list[SliceKey]]:
        """What ``epoch`` sees of ``keys``, shuffled, in batches; the last one may be smaller."""
        keys = self.of(keys, epoch)
        wanted = max(self.most, len(keys))
        order: list[int] = []
        while len(order) < wanted:
            order += torch.randperm(len(keys), generator=generator).tolist()
        for start in range(0, wanted, self.batch_size):
            yield [keys[i] for i in order[start : min(start + self.batch_size, wanted)]]


def dice_and_cross_entropy(
    logits: torch.Tensor, truth: torch.Tensor, n_structures: int, counted: torch.Tensor | None = None,
    total: Callable[[torch.Tensor], torch.Tensor] = lambda value: value,
) -> torch.Tensor:
    """nnU-Net's loss of regions (Isensee et al. 2021): binary cross-entropy plus 1 - soft Dice of the whole batch.

    Dice is of a structure's pixels in all slices of the batch together, so that a slice that does not show it is no
    case of its own.

    Args:
        logits: (B * L, H, W), before the sigmoid, slice by slice.
        truth: the same shape, bool.
        n_structures: L.
        counted: the same shape, bool, pixels that count; by default all.
        total: sum of a tensor over the processes that share the batch; by default there is one.

    Returns:
        scalar.
    """
    truth = truth.to(logits)
    counted = torch.ones_like(truth) if counted is None else counted.to(truth)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability, known = logits.sigmoid() * counted, truth * counted

    def of_structure(values: torch.Tensor) -> torch.Tensor:
        return total(values.unflatten(0, (-1, n_structures)).sum((0, 2, 3)))

    # 1 pixel more: defined where a structure is neither shown nor found.
    dice = (2 * of_structure(probability * known) + 1) / (of_structure(probability) + of_structure(known) + 1)
    return total((entropy * counted).sum()) / total(counted.sum()).clamp(min=1) + 1 - dice.mean()
