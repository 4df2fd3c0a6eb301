"""Prompts of boxes alone, as a person gives them to SAM, or round the whole slice: no saliency, no points, no text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samdpo.errors import ModelFolderError
from samdpo.files import read_json, write_json
from samdpo.plans import Plans
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.regions import boxes_of
from samdpo.prompting.saliency import SALIENCY_SIZE
from samdpo.schema import from_dict, to_dict

WHOLE_IMAGE = "whole_image.json"  # in a prompter's folder; says what kind it is
_REMEDY = "Train the model again."


def box_prompt(structure: str, label: int, regions: np.ndarray) -> StructurePrompt:
    """The boxes of ``regions``; a structure without regions is absent.

    Args:
        structure: its name.
        label: its id.
        regions: (H, W) uint8, 0 outside, 1 in the first component, 2 in the next …; views move them, and read the
            boxes off again.

    Returns:
        The prompt. Its saliency is zero everywhere: plans that use such prompts leave ``use_saliency`` out.
    """
    present = bool(regions.any())
    return StructurePrompt(
        structure=structure,
        label=label,
        present=present,
        score=float(present),
        saliency=np.zeros(SALIENCY_SIZE, np.float16),
        regions=regions,
        boxes=boxes_of(regions),
        points=np.zeros((0, 2), np.float32),
        hypotheses=np.zeros((0, 4), np.float32),
        hypothesis_scores=np.zeros(0, np.float32),
        answer="",
        description="",
        text_embedding=np.zeros(0, np.float32),
    )


@dataclass(frozen=True)
class WholeImagePrompter:
    """A box round the whole slice for every structure: the prompt of a SAM that nobody prompts.

    It stands where a :class:`~samdpo.prompting.prompter.Prompter` or a prompt store does. SAM's box does not say
    what is in it, so that all structures of a slice get the same mask; where they overlap the first one wins.

    Attributes:
        labels: id of each structure, in the plan's order.
        image_size: side of the slices in pixels.
    """

    labels: dict[str, int]
    image_size: int

    @classmethod
    def of(cls, plans: Plans) -> WholeImagePrompter:
        """For the structures and the slices of a plan."""
        labels = {name: structure.label for name, structure in plans.structures.items()}
        return cls(labels, plans.preprocessing.image_size)

    def prompt(self, image: np.ndarray) -> list[StructurePrompt]:
        """Prompts of a slice (3, H, W), one a structure; all of them present."""
        return self._everywhere(image.shape[-2:])

    def get(self, case: str, index: int) -> list[StructurePrompt]:
        """Prompts of a slice of the store; the same for all."""
        return self._everywhere((self.image_size, self.image_size))

    def _everywhere(self, size: tuple[int, int]) -> list[StructurePrompt]:
        return [box_prompt(name, label, np.ones(size, np.uint8)) for name, label in self.labels.items()]

    def save(self, folder: Path) -> None:
        """Write ``whole_image.json`` into ``folder``, atomically."""
        write_json(Path(folder) / WHOLE_IMAGE, to_dict(self))

    @classmethod
    def load(cls, folder: Path) -> WholeImagePrompter:
        """Read what :meth:`save` wrote.

        Raises:
            ModelFolderError: the file is missing or damaged.
            PlansError: a key is wrong.
        """
        file = Path(folder) / WHOLE_IMAGE
        return from_dict(cls, read_json(file, error=ModelFolderError, remedy=_REMEDY), source=str(file))
