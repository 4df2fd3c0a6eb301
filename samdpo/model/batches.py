"""From the slice store and the prompt store to the tensors of one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from samdpo.model.slice_labels import counted_rows, learnable, read_image, read_truth
from samdpo.model.views import IDENTITY, View, view_prompts
from samdpo.networks.prompt_batch import PromptBatch
from samdpo.plans import AugmentationPlan, Plans
from samdpo.preprocessing.store import SliceKey, SliceStore
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.prompt_store import PromptStore

Recipe = list[tuple[SliceKey, View]]
"""What the batch of a step is made of: drawn in the main process, made anywhere."""


class AsNew(Recipe):
    """A recipe whose slices are prompted as those of new cases are, see :attr:`PromptStore.as_new`: for measuring."""


@dataclass(frozen=True)
class Sample:
    """One slice with the prompts of the structures present in it.

    Attributes:
        key: case and slice.
        view: parameters under which it is seen.
        image: (3, H, W) in [0, 1].
        prompts: one per structure present.
        truth: (len(prompts), H, W) bool, or None where the case has no label.
        counted: (H, W) bool, False on pixels of the label ``ignore``; None where there are none.
    """

    key: SliceKey
    view: View
    image: torch.Tensor
    prompts: list[StructurePrompt]
    truth: torch.Tensor | None
    counted: torch.Tensor | None = None


@dataclass
class Batch:
    """Tensors of one step: images (B, 3, H, W), N prompts, truth (N, H, W) bool or None.

    ``counted`` (N, H, W) bool is False on pixels of the label ``ignore``, of which nothing is learned; None where all
    count.
    """

    samples: list[Sample]
    images: torch.Tensor
    prompts: PromptBatch
    truth: torch.Tensor | None
    counted: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def to(self, device: torch.device | str) -> Batch:
        """The same tensors on another device, sent without waiting where they are pinned; samples stay."""
        return on_device(self, device)


class SliceSamples:
    """Samples of a fold, read slice by slice."""

    def __init__(self, plans: Plans, slices: SliceStore, prompts: PromptStore, augmentation: AugmentationPlan) -> None:
        self.plans, self.slices, self.prompts, self.augmentation = plans, slices, prompts, augmentation
        self.prompts_as_new = prompts.as_new if isinstance(prompts, PromptStore) else prompts

    def keys(self, cases: Sequence[str]) -> list[SliceKey]:
        """The slices of ``cases`` in which at least one structure is present; not those that are ignored all over."""
        keys = learnable(self.slices, cases)
        if isinstance(self.prompts, PromptStore):
            shown = self.prompts.shown(cases)
            return [key for key in keys if key in shown]
        return [key for key in keys if any(p.present for p in self.prompts.get(*key))]  # such as boxes of the truth

    def sample(
        self, key: SliceKey, view: View = IDENTITY, with_truth: bool = True, as_new: bool = False
    ) -> Sample:
        """Read one slice and show it under ``view``, prompted as a new case's slice is where ``as_new``."""
        case, index = key
        image = read_image(self.slices, key, view)
        prompts = [p for p in (self.prompts_as_new if as_new else self.prompts).get(case, index) if p.present]
        prompts = view_prompts(prompts, view, self.augmentation, self.plans.prompting.n_points)
        prompts = [p for p in prompts if p.present]
        truth, counted = read_truth(self.slices, key, view, [p.label for p in prompts]) if with_truth else (None, None)
        return Sample(key, view, image, prompts, truth, counted)

    def batch(self, recipe: Recipe) -> Batch:
        """Read and stack the samples of a step."""
        return self.collate([self.sample(key, view, as_new=isinstance(recipe, AsNew)) for key, view in recipe])

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stack samples, which then are views of the batch; the truth is kept only when every sample has one."""
        samples, images, truth = stacked(samples)
        return Batch(
            samples=samples,
            images=images,
            prompts=prompt_tensors([s.prompts for s in samples], self.plans),
            truth=truth,
            counted=counted_rows(samples, [len(s.prompts) for s in samples]),
        )


def stacked(samples: Sequence[Any]) -> tuple[list[Any], torch.Tensor, torch.Tensor | None]:
    """Images (B, 3, H, W) and truth (N, H, W) of samples, None where one has none; and the samples as views of them,
    so that a batch holds nothing twice."""
    images = torch.stack([s.image for s in samples])
    samples = [replace(sample, image=image) for sample, image in zip(samples, images)]
    if any(s.truth is None for s in samples):
        return samples, images, None
    truth = torch.cat([s.truth for s in samples])
    rows = truth.split([len(s.truth) for s in samples])
    return [replace(sample, truth=of) for sample, of in zip(samples, rows)], images, truth


AnyBatch = TypeVar("AnyBatch")


def on_device(batch: AnyBatch, device: torch.device | str) -> AnyBatch:
    """A batch with its own tensors on another device, sent without waiting where they are pinned; samples stay."""
    if torch.device(device).type == "cpu":
        return batch
    moved = {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value.to(device)
        for name, value in vars(batch).items() if isinstance(value, (torch.Tensor, PromptBatch))
    }
    return replace(batch, **moved)


def prompt_tensors(prompts: Sequence[Sequence[StructurePrompt]], plans: Plans) -> PromptBatch:
    """Prompts of B slices as one :class:`PromptBatch`; the plan's ablation switches leave parts out.

    Args:
        prompts: for each slice of the batch the prompts of its structures.
        plans: gives the number of boxes, points and the switches ``use_*``.
    """
    plan, size = plans.prompting, plans.preprocessing.image_size
    n_boxes = max(s.components for s in plans.structures.values())
    flat = [(i, p) for i, of_slice in enumerate(prompts) for p in of_slice]
    n = len(flat)
    boxes, boxes_valid = np.zeros((n, n_boxes, 4), np.float32), np.zeros((n, n_boxes), bool)
    points, points_valid = np.zeros((n, plan.n_points, 2), np.float32), np.zeros((n, plan.n_points), bool)
    text, text_valid = np.zeros((n, plans.network.text_dim), np.float32), np.zeros(n, bool)
    use_text = plan.use_answers or plan.use_descriptions
    for row, (_, prompt) in enumerate(flat):
        if plan.use_boxes:
            k = min(n_boxes, len(prompt.boxes))
            boxes[row, :k], boxes_valid[row, :k] = prompt.boxes[:k], True
        if plan.use_points:
            k = min(plan.n_points, len(prompt.points))
            points[row, :k], points_valid[row, :k] = prompt.points[:k], True
        if use_text and prompt.text:  # the embedding of no text is zero, and no token
            text[row], text_valid[row] = prompt.text_embedding, True
    if n and plan.use_saliency:
        small = torch.from_numpy(np.stack([p.saliency for _, p in flat]).astype(np.float32))
        saliency = F.interpolate(small[:, None], size=(size, size), mode="bilinear", align_corners=False)
    else:
        saliency = torch.zeros(n, 1, size, size)
    return PromptBatch(
        image_index=torch.tensor([i for i, _ in flat], dtype=torch.long),
        boxes=torch.from_numpy(boxes),
        boxes_valid=torch.from_numpy(boxes_valid),
        points=torch.from_numpy(points),
        points_valid=torch.from_numpy(points_valid),
        text=torch.from_numpy(text),
        text_valid=torch.from_numpy(text_valid),
        mask_logits=saliency[:, 0],
        mask_valid=torch.full((n,), plan.use_saliency),
    )
