"""A prompt of boxes alone, as a person gives it to SAM: no saliency, no points, no other places, no text."""

from __future__ import annotations

import numpy as np

from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.regions import boxes_of
from samdpo.prompting.saliency import SALIENCY_SIZE


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
