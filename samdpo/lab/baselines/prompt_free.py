"""Base of the baselines that learn from masks alone and need no prompt, neither in training nor in prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from samdpo.errors import TrainingError
from samdpo.model.batches import Recipe, on_device, stacked
from samdpo.model.slice_labels import counted_rows, learnable, read_image, read_truth
from samdpo.model.views import IDENTITY, View
from samdpo.networks.precision import autocast
from samdpo.networks.prompt_free import PromptFreeNetwork
from samdpo.preprocessing.store import SliceKey, SliceStore
from samdpo.training.trainer import Trainer


@dataclass(frozen=True)
class MaskSample:
    """One slice under a view.

    Attributes:
        key: case and slice.
        view: parameters under which it is seen.
        image: (3, H, W) in [0, 1].
        truth: (L, H, W) bool, structures in the plan's order, empty where one is not shown; None where the case has
            no label or none is wanted.
        counted: (H, W) bool, False on pixels of the label ``ignore``; None where there are none.
    """

    key: SliceKey
    view: View
    image: torch.Tensor
    truth: torch.Tensor | None
    counted: torch.Tensor | None = None


@dataclass
class MaskBatch:
    """Tensors of one step; a row of ``truth`` and ``counted`` is one structure of one slice, slice by slice.

    Attributes:
        samples: the B slices.
        images: (B, 3, H, W) in [0, 1].
        truth: (B * L, H, W) bool, or None.
        counted: (B * L, H, W) bool, or None where all pixels count.
    """

    samples: list[MaskSample]
    images: torch.Tensor
    truth: torch.Tensor | None
    counted: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.samples)

    def to(self, device: torch.device | str) -> MaskBatch:
        """The same tensors on another device, sent without waiting where they are pinned; samples stay."""
        return on_device(self, device)


class MaskSamples:
    """Slices of a fold, read one by one.

    Args:
        slices: the preprocessed slices.
        labels: label id of each structure, in the plan's order.
    """

    def __init__(self, slices: SliceStore, labels: Sequence[int]) -> None:
        self.slices, self.labels = slices, list(labels)

    def keys(self, cases: Sequence[str]) -> list[SliceKey]:
        """Every slice of ``cases``, also those that show no structure; not those that are ignored all over."""
        return learnable(self.slices, cases)

    def sample(
        self, key: SliceKey, view: View = IDENTITY, with_truth: bool = True, as_new: bool = False
    ) -> MaskSample:
        """Read one slice and show it under ``view``; without prompts every slice is seen ``as_new``."""
        image = read_image(self.slices, key, view)
        truth, counted = read_truth(self.slices, key, view, self.labels) if with_truth else (None, None)
        return MaskSample(key, view, image, truth, counted)

    def batch(self, recipe: Recipe) -> MaskBatch:
        """Read and stack the samples of a step."""
        return self.collate([self.sample(key, view) for key, view in recipe])

    def collate(self, samples: Sequence[MaskSample]) -> MaskBatch:
        """Stack samples, which then are views of the batch; the truth is kept only when every sample has one."""
        samples, images, truth = stacked(samples)
        return MaskBatch(
            samples=samples,
            images=images,
            truth=truth,
            counted=counted_rows(samples, [len(self.labels)] * len(samples)),
        )


class PromptFreeTrainer(Trainer):
    """Trains on every labelled slice, also those that show no structure: nothing else says that one is absent.

    A variant overrides ``train_step``, and :meth:`logits` where a batch does not go through the whole network.
    """

    uses_prompts = False
    network: PromptFreeNetwork  # type: ignore[assignment]
    samples: MaskSamples  # type: ignore[assignment]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.samples = MaskSamples(self.data.slices, [s.label for s in self.plans.structures.values()])

    def initialize(self) -> None:
        """As :meth:`Trainer.initialize`; masks that are empty everywhere are refused too.

        Raises:
            TrainingError: no labelled slice shows a structure.
        """
        super().initialize()
        cases = {case for case, _ in self.train_keys}
        if not any(any(self.data.slices.properties(case)["slices_of"].values()) for case in cases):
            raise TrainingError(
                f"No labelled slice of fold {self.data.fold} of {self.plans.dataset_name} has a structure in it, so "
                "there is nothing to learn from. Check the labels with: samdpo_plan_and_preprocess "
                "--verify_dataset_integrity"
            )

    def logits(self, batch: MaskBatch) -> torch.Tensor:
        """What the network says of a batch: (B * L, H, W) float32 on its device, rows as in :class:`MaskBatch`."""
        with autocast(self.device, self.precision):
            return self.network.segment(batch.images.to(self.device)).float().flatten(0, 1)

    @torch.no_grad()
    def probabilities(self, batch: MaskBatch) -> torch.Tensor:  # type: ignore[override]
        """As in prediction: (B * L, H, W) in [0, 1]."""
        self.network.eval()
        return self.logits(batch).sigmoid()

    def structures_of(self, batch: MaskBatch) -> list[str]:  # type: ignore[override]
        """Every slice has a row of each structure."""
        return [*self.plans.structures] * len(batch)
