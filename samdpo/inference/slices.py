"""Probabilities of all structures of prepared slices: encode once, decode all prompts of a slice in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from samdpo.networks.precision import autocast
from samdpo.networks.sam import SamNetwork
from samdpo.plans import AugmentationPlan, Plans
from samdpo.prompting.prompt import StructurePrompt
from samdpo.training.batches import prompt_tensors
from samdpo.training.views import FLIPPED, view_prompt


@torch.no_grad()
def predict_slices(
    network: SamNetwork,
    images: torch.Tensor,
    prompts: Sequence[Sequence[StructurePrompt]],
    plans: Plans,
    device: torch.device,
    precision: str,
    mirror: bool = True,
    batch_size: int = 4,
) -> np.ndarray:
    """Foreground probabilities of every structure of the plan.

    Args:
        network: in eval mode, on ``device``.
        images: (S, 3, H, W) in [0, 1].
        prompts: for each slice the prompts of its structures; absent ones cost no decoder pass and get 0.
        plans: order of the structures is that of ``plans.structures``.
        device: of the network.
        precision: ``fp32`` or ``bf16``, of the encoder.
        mirror: average with the prediction of the mirror image.
        batch_size: slices a pass.

    Returns:
        (S, L, H, W) float32.
    """
    order = {name: i for i, name in enumerate(plans.structures)}
    size = plans.preprocessing.image_size
    result = np.zeros((len(images), len(order), size, size), np.float32)
    todo = [i for i in range(len(images)) if any(p.present for p in prompts[i])]
    for start in range(0, len(todo), batch_size):
        rows = todo[start : start + batch_size]
        present = [[p for p in prompts[i] if p.present] for i in rows]
        probabilities = _decode(network, images[rows], present, plans, device, precision)
        if mirror:
            plain = AugmentationPlan(box_jitter=0.0)
            flipped = [[view_prompt(p, FLIPPED, plain, plans.prompting.n_points) for p in of] for of in present]
            mirrored = _decode(network, images[rows].flip(-1), flipped, plans, device, precision)
            probabilities = (probabilities + mirrored.flip(-1)) / 2
        flat = ((row, p.structure) for row, of in zip(rows, present) for p in of)
        for (row, structure), probability in zip(flat, probabilities.cpu().numpy()):
            result[row, order[structure]] = probability
    return result


def _decode(
    network: SamNetwork,
    images: torch.Tensor,
    prompts: Sequence[Sequence[StructurePrompt]],
    plans: Plans,
    device: torch.device,
    precision: str,
) -> torch.Tensor:
    with autocast(device, precision):
        embeddings = network.encode_image(images.to(device)).float()
    return network.decode(embeddings, prompt_tensors(prompts, plans).to(device))[0].sigmoid()


def label_map(probabilities: np.ndarray, cut: float, labels: Sequence[int]) -> np.ndarray:
    """Probabilities (L, Z, Y, X) -> label ids (Z, Y, X) int16; where structures overlap the more probable one wins."""
    best = probabilities.argmax(0)
    foreground = np.take_along_axis(probabilities, best[None], 0)[0] > cut
    return np.where(foreground, np.asarray(labels, np.int16)[best], 0).astype(np.int16)
