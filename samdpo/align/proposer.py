"""Proposals: masks of one structure on one slice, of which somebody says which is right or better than another."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from samdpo.align.reference import ReferenceModel
from samdpo.errors import PlansError
from samdpo.model.batches import Batch
from samdpo.model.places import decode_places
from samdpo.plans import CandidatePlan, Plans
from samdpo.preferences.candidates import cut_at_thresholds, distinct_first, draw_fields
from samdpo.prompting.prompt import StructurePrompt
from samdpo.schema import to_dict

THRESHOLD, FIELD, HYPOTHESIS, PROMPT = "threshold", "field", "hypothesis", "prompt"


@dataclass(frozen=True)
class Origin:
    """Where a proposal comes from.

    Attributes:
        maker: ``threshold`` or ``field`` (cut from what the network says), ``hypothesis`` (decoded from a box alone),
            ``prompt`` (decoded from the slice's own prompt), or what a proposer of yours calls it.
        box: (4,) float32 x0, y0, x1, y1 in pixels, of which it is decoded; None where it has none of its own.
    """

    maker: str
    box: np.ndarray | None = None


@dataclass(frozen=True)
class Proposals:
    """M masks of each of N prompts.

    Attributes:
        masks: (N, M, H, W) bool.
        origins: of each prompt, of each of its masks.
        logits: (N, M, H, W) before the sigmoid, where the masks are decoded ones.
        quality: (N, M) overlap with the truth that SAM predicts, likewise; -inf where there is no such proposal.
    """

    masks: Tensor
    origins: list[list[Origin]]
    logits: Tensor | None = None
    quality: Tensor | None = None


@dataclass(frozen=True)
class EncodedBatch:
    """Slices as everybody sees them who proposes, judges or answers.

    Attributes:
        batch: B slices with N prompts: images, prompts, pixels that count.
        embeddings: (B, C, h, w) float32.
        reference: the finetuned network.
        logits: (N, H, W) of the network that is trained, before the sigmoid; None where only places are asked for.
    """

    batch: Batch
    embeddings: Tensor
    reference: ReferenceModel
    logits: Tensor | None = None

    @property
    def prompts(self) -> list[StructurePrompt]:
        """The N prompts, slice by slice."""
        return [prompt for sample in self.batch.samples for prompt in sample.prompts]

    @property
    def reference_logits(self) -> Tensor:
        """(N, H, W) of the finetuned network, before the sigmoid, float32."""
        return self.reference.logits(self.batch, self.embeddings)


class Proposer:
    """Proposes what the plan's ``candidates`` say. One serves the training, the rounds about places and the page.

    To propose something else override :meth:`propose` and return the proposer from
    :meth:`samdpo.align.trainer.AlignTrainer.build_proposer`. Its name and :meth:`settings` are part of what a kept set
    of candidates is called, so that judgements of other proposals are never learned from.

    Args:
        plans: number of hypotheses, structures, what a prompt is made of.
        candidates: kind, number and constants.

    Raises:
        PlansError: candidates of other places are wanted of prompts whose place a judge has chosen already.
    """

    def __init__(self, plans: Plans, candidates: CandidatePlan) -> None:
        if candidates.kind == "hypotheses" and plans.prompting.place == "judge":
            raise PlansError(
                f"'candidates.kind' is 'hypotheses', and 'prompting.place' of {plans.plans_name} is 'judge', who has "
                "chosen among them already, so that there are none. Ask about places with the stage align "
                "(candidates.kind=places), or set prompting.place=saliency for both stages."
            )
        self.plans, self.candidates = plans, candidates

    def propose(self, slices: EncodedBatch, generator: torch.Generator) -> Proposals:
        """Proposals of every prompt, (N, M, H, W) with M = ``candidates.count``.

        Args:
            slices: encoded and decoded.
            generator: a CPU generator; the same state gives the same proposals.
        """
        plan = self.candidates
        if plan.kind == "thresholds":
            masks = cut_at_thresholds(slices.logits, plan)
            return Proposals(masks, [[Origin(THRESHOLD)] * plan.count for _ in masks])
        masks = draw_fields(slices.logits, plan, generator)
        origins = [[Origin(FIELD)] * plan.count for _ in masks]
        if plan.kind == "hypotheses":
            decoded = slices.reference.hypotheses(slices.batch, slices.embeddings)
            masks, taken = distinct_first(decoded > 0, masks)
            origins = [
                [Origin(FIELD) if of < 0 else Origin(HYPOTHESIS, hypothesis_box(prompt, of)) for of in row]
                for prompt, row in zip(slices.prompts, taken.tolist())
            ]
        return Proposals(masks, origins)

    def others(self, logits: Tensor, count: int, generator: torch.Generator) -> Tensor | None:
        """Masks (count, H, W) bool in place of those of one prompt that a person cannot tell apart.

        Args:
            logits: (H, W) of the prompt.
            count: masks wanted.
            generator: as in :meth:`propose`.

        Returns:
            None where the proposals are what they are, as thresholds.
        """
        if self.candidates.kind == "thresholds":
            return None
        return draw_fields(logits[None], dataclasses.replace(self.candidates, count=count), generator)[0]

    def places(self, slices: EncodedBatch, cut: float | None = None) -> Proposals:
        """Proposals that say *where*: each prompt as it is and, where it may be elsewhere, decoded from each box alone.

        Args:
            slices: encoded.
            cut: probability above which a pixel belongs to a mask; None is 0 of the logits.
        """
        prompts = [sample.prompts for sample in slices.batch.samples]
        places = decode_places(slices.reference.network, slices.embeddings, prompts, self.plans)
        masks = places.logits > 0 if cut is None else places.logits.sigmoid() > cut
        elsewhere = masks.shape[1] - 1
        origins = [
            [Origin(PROMPT), *(Origin(HYPOTHESIS, box) for box in boxes)]
            + [Origin(HYPOTHESIS)] * (elsewhere - len(boxes))
            for boxes in places.boxes
        ]
        return Proposals(masks, origins, places.logits, places.quality)

    def settings(self) -> dict[str, Any]:
        """Everything beside the plan's prompts and network that decides what is proposed, as JSON."""
        return to_dict(self.candidates)

    def describe(self) -> dict[str, Any]:
        """The class's full name and its settings."""
        return {"class": f"{type(self).__module__}:{type(self).__qualname__}", "settings": self.settings()}


def hypothesis_box(prompt: StructurePrompt, index: int) -> np.ndarray:
    """(4,) of one of the boxes that a prompt is decoded from alone; where there are fewer they are repeated."""
    boxes = prompt.hypotheses if len(prompt.hypotheses) else prompt.boxes
    return boxes[index % len(boxes)]
