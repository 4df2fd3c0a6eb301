"""SAM and SAM-Med2D as the paper compares with them: fine-tuned with LoRA, prompted with boxes (paper Sec. 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from samdpo.errors import TrainingError
from samdpo.model.batches import Batch, SliceSamples
from samdpo.plans import Plans
from samdpo.preprocessing.store import SliceStore
from samdpo.prompting.box_prompt import WholeImagePrompter, box_prompt
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.regions import largest_components
from samdpo.training.finetune import FinetuneTrainer
from samdpo.training.fold_data import FoldData
from samdpo.training.validation import validate_fold

TRUTH_BOX = "validation_truth_box"  # folder of the validation that has looked at the truth


class SamTrainer(FinetuneTrainer):
    """Learns to segment what is in the truth's box; the stages ``sam`` and ``sam_med2d``, which differ in backbone.

    Nobody draws a box at inference. What the model then says is measured with a box round the whole image, and so are
    the mask cut, where cases are held back, and the confidence. What it would say if somebody drew the truth's box is
    measured apart.

    Arguments are those of :class:`~samdpo.training.trainer.Trainer`; the fold comes without prompts.
    """

    uses_prompts = False  # made from text; a fold needs nothing but its labels

    def __init__(
        self, data: FoldData, stage: str, folder: Path, device: str = "auto", pretrained_weights: Path | None = None
    ) -> None:
        boxes, whole_image = TruthBoxes(data.plans, data.slices), WholeImagePrompter.of(data.plans)
        data = dataclasses.replace(data, prompts=boxes, prompter=whole_image)
        super().__init__(data, stage, folder, device, pretrained_weights)

    @contextmanager
    def unprompted(self) -> Iterator[None]:
        """Samples as in prediction: a box round the whole image."""
        before = self.samples
        self.samples = SliceSamples(self.plans, self.data.slices, self.data.prompter, self.stage.augmentation)
        try:
            yield
        finally:
            self.samples = before

    def validation_batches(self) -> Iterator[Batch]:
        """Held-back labelled slices, prompted as in prediction."""
        with self.unprompted():
            yield from super().validation_batches()

    def measure_confidence(self) -> dict[str, float]:
        """Of masks that are prompted as in prediction."""
        with self.unprompted():
            return super().measure_confidence()

    def perform_actual_validation(self, save_probabilities: bool = False) -> dict[str, Any]:
        """Write ``validation/``, with a box round the whole image, and ``validation_truth_box/``; return the first."""
        predictor = self.predictor()
        summary = validate_fold(predictor, self.data, self.folder, save_probabilities, prompts=self.data.prompter)
        validate_fold(predictor, self.data, self.folder, prompts=self.data.prompts, folder=TRUTH_BOX)
        return summary


class TruthBoxes:
    """The prompts of labelled slices, read off their labels; stands where a prompt store does.

    Args:
        plans: structures with their number of components, and the share of the largest one below which a component
            gets no box.
        slices: with the labels.
    """

    def __init__(self, plans: Plans, slices: SliceStore) -> None:
        self.plans, self.slices = plans, slices

    def get(self, case: str, index: int) -> list[StructurePrompt]:
        """Prompts of one slice, one a structure: a box round each of its components; absent where it has none.

        Raises:
            TrainingError: the case has no label.
        """
        label = self.slices.label(case, index)
        if label is None:
            raise TrainingError(f"{case} has no label from which boxes could be taken. Only labelled cases have them.")
        least = self.plans.prompting.min_component_share
        return [
            box_prompt(name, plan.label, largest_components(label == plan.label, plan.components, least))
            for name, plan in self.plans.structures.items()
        ]
