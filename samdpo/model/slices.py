"""Probabilities of all structures of prepared slices: encode once, decode all prompts of a slice in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from samdpo.model.places import decode_places
from samdpo.model.views import FLIPPED, view_prompt
from samdpo.networks.frozen_encoder import FrozenEncoder
from samdpo.networks.precision import autocast
from samdpo.networks.prompt_free import PromptFreeNetwork
from samdpo.networks.sam import SamNetwork
from samdpo.plans import AugmentationPlan, Plans
from samdpo.prompting.prompt import StructurePrompt


@dataclass(frozen=True)
class SlicePredictions:
    """What the network says of slices.

    Attributes:
        probabilities: (S, L, H, W) float32, structures in the plan's order.
        used: for each slice the prompts decoded; where another place than the prompt's own was chosen, its box is
            the only box and there are no points.
        places: for each slice and each of ``used`` the number of the place chosen: 0 is the prompt's own, 1 the first
            hypothesis.
    """

    probabilities: np.ndarray
    used: list[list[StructurePrompt]]
    places: list[list[int]]


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
    encode: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> SlicePredictions:
    """Foreground probabilities of every structure of the plan.

    Args:
        network: in eval mode, on ``device``.
        images: (S, 3, H, W) in [0, 1].
        prompts: for each slice the prompts of its structures; absent ones cost no decoder pass and get 0.
        plans: order of the structures is that of ``plans.structures``; ``inference.choose_place``.
        device: of the network.
        precision: ``fp32``, ``bf16`` or ``fp16``, of the encoder.
        mirror: average with the prediction of the mirror image.
        batch_size: slices a pass.
        encode: (B, 3, H, W) -> embeddings (B, C, h, w) float32 on ``device``; the network's own pass if None.
    """
    encode = encode or FrozenEncoder(network, device, precision)
    order = {name: i for i, name in enumerate(plans.structures)}
    size = plans.preprocessing.image_size
    result = np.zeros((len(images), len(order), size, size), np.float32)
    used: list[list[StructurePrompt]] = [[] for _ in prompts]
    chosen: list[list[int]] = [[] for _ in prompts]
    todo = [i for i in range(len(images)) if any(p.present for p in prompts[i])]
    for start in range(0, len(todo), batch_size):
        rows = todo[start : start + batch_size]
        present = [[p for p in prompts[i] if p.present] for i in rows]
        views = [decode_places(network, encode(images[rows]), present, plans)]
        if mirror:
            plain = AugmentationPlan(box_jitter=0.0)
            flipped = [[view_prompt(p, FLIPPED, plain, plans.prompting.n_points) for p in of] for of in present]
            views.append(decode_places(network, encode(images[rows].flip(-1)), flipped, plans))
        places = torch.stack([view.quality for view in views]).mean(0).argmax(1)
        probabilities = [view.at(places).sigmoid() for view in views]
        mean = (probabilities[0] + probabilities[1].flip(-1)) / 2 if mirror else probabilities[0]
        flat = [(row, prompt) for row, of in zip(rows, present) for prompt in of]
        # Fetched at once, so that a GPU is not waited for at every prompt.
        found = zip(flat, mean.cpu().numpy(), places.tolist())
        for i, ((row, prompt), probability, place) in enumerate(found):
            result[row, order[prompt.structure]] = probability
            if place > 0:
                prompt = replace(prompt, boxes=views[0].boxes[i][place - 1 : place], points=prompt.points[:0])
            used[row].append(prompt)
            chosen[row].append(place)
    return SlicePredictions(result, used, chosen)


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
