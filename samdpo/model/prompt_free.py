"""Probabilities of prepared slices by a network that needs no prompt."""

from __future__ import annotations

import torch

from samdpo.model.slices import SlicePredictions
from samdpo.networks.precision import autocast
from samdpo.networks.prompt_free import PromptFreeNetwork


@torch.no_grad()
def segment_slices(
    network: PromptFreeNetwork,
    images: torch.Tensor,
    device: torch.device,
    precision: str,
    mirror: bool = True,
    batch_size: int = 4,
) -> SlicePredictions:
    """Foreground probabilities of every structure of the plan; no prompts were used.

    Args:
        network: in eval mode, on ``device``.
        images: (S, 3, H, W) in [0, 1].
        device: of the network.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        mirror: average with the prediction of the mirror image.
        batch_size: slices a pass.
    """

    def probabilities(chunk: torch.Tensor) -> torch.Tensor:
        with autocast(device, precision):
            return network.segment(chunk.to(device)).float().sigmoid()

    found = []
    for chunk in images.split(batch_size):
        mean = probabilities(chunk)
        if mirror:
            mean = (mean + probabilities(chunk.flip(-1)).flip(-1)) / 2
        found.append(mean.cpu())
    return SlicePredictions(torch.cat(found).numpy(), [[] for _ in images], [[] for _ in images])
