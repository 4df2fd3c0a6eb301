"""Clicks: drawn from the truth in training, and where a person would click."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage


def next_clicks(
    truth: torch.Tensor, counted: torch.Tensor, logits: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One more click a sample, drawn evenly from the voxels at which the mask so far is wrong (Wang et al. 2023).

    Before the first click there is no mask, so it falls into the structure. Where nothing is wrong any more, it falls
    into the structure once more.

    Args:
        truth: (B, 1, s, s, s) bool.
        counted: (B, 1, s, s, s) bool, False where nothing is known.
        logits: (B, 1, s, s, s) of the mask so far.

    Returns:
        points (B, 1, 3) voxels, float, and whether each lies in the structure, (B, 1) bool.
    """
    wrong = truth if logits is None else (truth != (logits > 0)) & counted
    points, inside = [], []
    for of_sample, structure in zip(wrong[:, 0], truth[:, 0]):
        places = of_sample.nonzero()
        if not len(places):
            places = structure.nonzero()
        place = places[int(torch.randint(len(places), ()))]
        points.append(place.float())
        inside.append(structure[tuple(place)])
    return torch.stack(points)[:, None], torch.stack(inside)[:, None]


def innermost(mask: np.ndarray) -> tuple[int, ...]:
    """The voxel of a mask that is farthest from what is outside it.

    Args:
        mask: (X, Y, Z) bool, with at least one voxel.
    """
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    depth = ndimage.distance_transform_edt(np.pad(mask[box], 1))[1:-1, 1:-1, 1:-1]
    deepest = np.unravel_index(int(depth.argmax()), depth.shape)
    return tuple(int(d) + s.start for d, s in zip(deepest, box))
