"""A box round the whole slice for every structure: the prompt of a SAM that nobody prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samdpo.errors import ModelFolderError
from samdpo.files import read_json, write_json
from samdpo.plans import Plans
from samdpo.prompting.box_prompt import box_prompt
from samdpo.prompting.prompt import StructurePrompt
from samdpo.schema import from_dict, to_dict

WHOLE_IMAGE = "whole_image.json"  # in a prompter's folder; says what kind it is
_REMEDY = "Train the model again."


@dataclass(frozen=True)
class WholeImagePrompter:
    """Says of every structure that it may be anywhere, whatever the slice shows.

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
