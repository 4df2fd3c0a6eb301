"""A network for tests of proposals: of each box it makes the ellipse that fills it, of each point a small disc."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from samdpo.networks.prompt_batch import PromptBatch

SIZE = 256


def ellipse(x: float, y: float, across: float, down: float) -> np.ndarray:
    """(SIZE, SIZE) bool; ``across`` and ``down`` are half its width and height."""
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    return ((columns - x) / max(across, 1e-9)) ** 2 + ((rows - y) / max(down, 1e-9)) ** 2 < 1


def picture(mask: np.ndarray, inside: float = 0.2, outside: float = 0.7) -> np.ndarray:
    """(SIZE, SIZE) with a little noise."""
    noise = np.random.default_rng(0).normal(0, 0.02, mask.shape)
    return np.where(mask, inside, outside) + noise


def of_three_channels(image: np.ndarray) -> np.ndarray:
    """(3, SIZE, SIZE) float32."""
    return np.repeat(image[None], 3, 0).astype(np.float32)


class EllipseNetwork(nn.Module):
    """Stands for a :class:`~samdpo.networks.sam.SamNetwork`; ``seen`` and ``grids`` are what it was given.

    Args:
        grown: how much wider and higher than its box an ellipse is.
    """

    def __init__(self, grown: float = 1.0) -> None:
        super().__init__()
        self.mask_decoder, self.text_projection = nn.Linear(1, 1), nn.Linear(8, 4)
        self.grown, self.seen, self.grids = grown, [], []

    def decode(self, embedding: Tensor, batch: PromptBatch, grid: int = 0) -> tuple[Tensor, Tensor]:
        self.seen.append(batch)
        self.grids.append(grid)
        masks = [self.mask_of(batch, row) for row in range(len(batch.image_index))]
        return torch.from_numpy(np.stack(masks)).float() * 16 - 8, torch.linspace(0.9, 0.5, len(masks))

    def mask_of(self, batch: PromptBatch, row: int) -> np.ndarray:
        if not batch.boxes_valid[row].any():
            return ellipse(*batch.points[row, 0].tolist(), 9, 9)
        x0, y0, x1, y1 = batch.boxes[row, 0].tolist()
        return ellipse((x0 + x1) / 2, (y0 + y1) / 2, self.grown * (x1 - x0) / 2, self.grown * (y1 - y0) / 2)


def propose_ellipses(patch: pytest.MonkeyPatch) -> None:
    """Let every proposer of this process decode with it: ``tiny_sam`` as published makes the same of every box."""
    from samdpo.prompting.proposals import PlaceProposer, Proposals

    decode = PlaceProposer.decode

    def ellipses(self: PlaceProposer, *arguments: object, **named: object) -> Proposals:
        return decode(PlaceProposer(EllipseNetwork(), self.blobs, self.kept), *arguments, **named)

    patch.setattr(PlaceProposer, "decode", ellipses)
