"""The prompt of one structure on one slice, as the prompt store keeps it and training takes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StructurePrompt:
    """Everything that is known beforehand about where a structure is on a slice (H x W pixels).

    Attributes:
        structure: name in dataset.json.
        label: its id.
        present: whether the structure is on the slice; if not, there are no boxes, points or hypotheses.
        score: presence score in [0, 1]: mean saliency probability of the slice's most salient percent of pixels.
        saliency: (64, 64) float16 logits; their sigmoid is a foreground probability. SAM's mask prompt after
            resizing.
        regions: (H, W) uint8, 0 outside the coarse mask, 1 in its largest component, 2 in the next …
        boxes: (K, 4) float32 xyxy pixels, one a component, largest first; x1, y1 lie just outside.
        points: (P, 2) float32 xy pixels inside the components.
        hypotheses: (H, 4) float32 boxes of other places it may be, best first; the first is the box (for a
            structure of several components: the box around all of them) of the coarse mask.
        hypothesis_scores: (H,) float32 in [0, 1], falling.
        answer: one sentence measured on the coarse mask; empty if absent or switched off.
        description: generic description of the structure; empty if switched off.
        text_embedding: (384,) float32 of answer and description.
        place_confidence: in [0, 1], a judge's belief that the structure is where it chose; 1 where no judge chose.
    """

    structure: str
    label: int
    present: bool
    score: float
    saliency: np.ndarray
    regions: np.ndarray
    boxes: np.ndarray
    points: np.ndarray
    hypotheses: np.ndarray
    hypothesis_scores: np.ndarray
    answer: str
    description: str
    text_embedding: np.ndarray
    place_confidence: float = 1.0

    @property
    def text(self) -> str:
        """Answer and description as one text, what ``text_embedding`` embeds."""
        return " ".join(part for part in (self.answer, self.description) if part)

    @property
    def coarse_mask(self) -> np.ndarray:
        """(H, W) bool: the components of the coarse mask."""
        return self.regions > 0
