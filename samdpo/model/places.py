"""A structure decoded at every place where it may be: its own prompt, and each hypothesis box alone.

One saliency map has one best component, and where that is the wrong one no decoder can mend it. SAM predicts the
overlap of every mask it decodes; the place whose mask it thinks best of is taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from samdpo.model.batches import prompt_tensors
from samdpo.networks.prompt_batch import PromptBatch
from samdpo.networks.sam import SamNetwork
from samdpo.plans import Plans
from samdpo.prompting.prompt import StructurePrompt

_OUTSIDE = -4.0  # logit of the mask prompt outside a hypothesis


@dataclass(frozen=True)
class Places:
    """N prompts decoded at K places each; K is 1 where no structure has other places.

    Attributes:
        logits: (N, K, H, W) before the sigmoid; the first place is the prompt's own.
        quality: (N, K) overlap with the truth that SAM's quality head predicts; -inf where there is no such place.
        boxes: for each prompt the hypothesis boxes (K - 1, 4) of its places after the first, or none.
    """

    logits: torch.Tensor
    quality: torch.Tensor
    boxes: list[np.ndarray]

    @property
    def chosen(self) -> torch.Tensor:
        """(N,) long, the place of highest predicted quality."""
        return self.quality.argmax(1)

    def at(self, chosen: torch.Tensor) -> torch.Tensor:
        """(N, H, W) logits of one place a prompt."""
        return self.logits[torch.arange(len(chosen), device=chosen.device), chosen]


@torch.no_grad()
def decode_places(
    network: SamNetwork, embeddings: torch.Tensor, prompts: Sequence[Sequence[StructurePrompt]], plans: Plans
) -> Places:
    """Decode each prompt, and where the plan says so each of its hypotheses.

    Only structures of one component have other places: two lungs are not somewhere else.

    Args:
        network: in eval mode.
        embeddings: (B, C, h, w) float32 on the network's device.
        prompts: for each of the B slices the prompts of its structures, all of them present.
        plans: ``inference.choose_place``, the number of hypotheses, the structures' components.
    """
    logits, quality = network.decode(embeddings, prompt_tensors(prompts, plans).to(embeddings.device))
    flat = [prompt for of_slice in prompts for prompt in of_slice]
    none = np.zeros((0, 4), np.float32)
    movable = [plans.inference.choose_place and has_places(prompt, plans) for prompt in flat]
    if not any(movable):
        return Places(logits[:, None], quality[:, None], [none] * len(flat))
    rows = iter(movable)
    other = [[prompt for prompt in of_slice if next(rows)] for of_slice in prompts]
    variants = hypothesis_prompts(other, plans)
    elsewhere, elsewhere_quality = network.decode(embeddings, variants.to(embeddings.device))
    m = plans.prompting.n_hypotheses
    which = torch.tensor(movable, device=logits.device)
    every = logits[:, None].repeat(1, 1 + m, 1, 1)
    every[which, 1:] = elsewhere.unflatten(0, (-1, m))
    qualities = torch.cat([quality[:, None], quality.new_full((len(flat), m), -torch.inf)], 1)
    qualities[which, 1:] = elsewhere_quality.unflatten(0, (-1, m))
    boxes = [_exactly(prompt.hypotheses, m) if moves else none for prompt, moves in zip(flat, movable)]
    return Places(every, qualities, boxes)


def has_places(prompt: StructurePrompt, plans: Plans) -> bool:
    """Whether a prompt's structure has one component and there are hypotheses, which are boxes, of where it is."""
    one = plans.structures[prompt.structure].components == 1
    return one and plans.prompting.use_boxes and len(prompt.hypotheses) > 0


def hypothesis_prompts(prompts: Sequence[Sequence[StructurePrompt]], plans: Plans) -> PromptBatch:
    """For every prompt M = ``n_hypotheses`` prompts, each with one hypothesis as its only box and no points.

    The saliency is kept as mask prompt inside the hypothesis and pushed to background outside of it, so that box and
    mask prompt do not contradict each other.

    Args:
        prompts: for each slice the prompts of its structures.
        plans: gives M.

    Returns:
        (number of prompts) * M rows, those of a prompt one after another.
    """
    size = plans.preprocessing.image_size
    variants: list[list[StructurePrompt]] = []
    windows = []
    for of_slice in prompts:
        variants.append([])
        for prompt in of_slice:
            boxes = prompt.hypotheses if len(prompt.hypotheses) else prompt.boxes
            for box in _exactly(boxes, plans.prompting.n_hypotheses):
                variants[-1].append(dataclasses.replace(prompt, boxes=box[None], points=prompt.points[:0]))
                window = torch.full((size, size), _OUTSIDE)
                x0, y0, x1, y1 = np.round(box).astype(int)
                window[max(y0, 0) : y1, max(x0, 0) : x1] = torch.inf
                windows.append(window)
    batch = prompt_tensors(variants, plans)
    return dataclasses.replace(batch, mask_logits=torch.minimum(batch.mask_logits, torch.stack(windows)))


def _exactly(boxes: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` of ``boxes`` (K, 4); fewer are repeated."""
    return np.concatenate([boxes] * (-(-count // max(len(boxes), 1))))[:count]
