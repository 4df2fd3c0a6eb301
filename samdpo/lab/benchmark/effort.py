"""What an annotator must say for a method, in bits, so that a mask and a ranking can be compared.

An order of K candidates is one of K!, the best of them one of K, a rating one of its bins for each. A mask's outline
is counted as its chain code (Freeman 1961): 3 bits for each pixel of the boundary and, for each component, 16 bits
for where it starts, on the 256 x 256 grid that the network sees. Both are upper bounds of what is told, since not all
answers are equally likely.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

CHAIN_BITS = 3  # eight neighbours


def judgement_bits(settings: Mapping[str, Any], structures: Mapping[str, Any], n_hypotheses: int, epochs: int,
                   has_places: bool) -> float:
    """Bits that a whole training asks about one unlabelled image, all its structures together.

    The virtual annotator judges new candidates whenever an image is seen, once an epoch. People judge stored ones,
    once. Each round about places asks for the best of the hypotheses and the prompt's own box.

    Args:
        settings: of the stage, as ``debug.json`` has them.
        structures: of the plan, by name.
        n_hypotheses: of the plan's prompts.
        epochs: that were trained.
        has_places: whether prompts were refitted to places.
    """
    if settings.get("objective") not in ("preferences", "best_candidate"):
        return 0.0
    annotator, count = settings["annotator"], settings["candidates"]["count"]
    scoring = "best" if settings["objective"] == "best_candidate" else annotator["scoring"]
    each = {
        "ranking": math.log2(math.factorial(count)),
        "best": math.log2(count),
        "rating": count * math.log2(len(annotator["rating_bins"]) + 1),
    }[scoring]
    bits = len(structures) * each * (epochs if annotator["kind"] == "virtual" else 1)
    if has_places:
        movable = sum(structure["components"] == 1 for structure in structures.values())
        bits += movable * settings["prompt_rounds"] * math.log2(n_hypotheses + 1)
    return bits


def outline_bits(label: np.ndarray) -> float:
    """Bits of the outlines of every structure in a slice.

    Args:
        label: (H, W) whole numbers; 0 and negative values are no structure.
    """
    from scipy import ndimage

    start = math.log2(label.size)
    bits = 0.0
    for value in np.unique(label[label > 0]):
        mask = label == value
        boundary = mask & ~ndimage.binary_erosion(mask)
        bits += CHAIN_BITS * int(boundary.sum()) + start * ndimage.label(mask, np.ones((3, 3)))[1]
    return bits
