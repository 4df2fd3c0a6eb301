"""The measured answer: shape, place, size and number of a coarse mask as one sentence.

It answers the question the paper asks a medical VLM ("What is the shape of the liver and where is it located?")
from the coarse mask itself, so it costs nothing, never invents, and is as wrong as the mask is.
"""

from __future__ import annotations

import numpy as np
from skimage.measure import regionprops

_COLUMNS = ("left", "middle", "right")
_ROWS = ("upper", "middle", "lower")
_IRREGULAR_SOLIDITY = 0.85  # area over convex hull's area below which an outline is irregular
_ROUND_RATIO = 1.25  # longest over shortest axis
_OVAL_RATIO = 2.2
_COUNTS = {1: "one region", 2: "two regions", 3: "three regions"}


def measured_answer(name: str, regions: np.ndarray) -> str:
    """One sentence about a coarse mask.

    Args:
        name: the structure's name.
        regions: (H, W) uint8 components, 1 the largest.

    Returns:
        Like "The breast tumor is oval (1.6 times as long as wide), in the upper left of the image, covers 4% of it
        as one region."; empty where the mask is empty. Shape and ratio are those of the largest component; an
        irregular one's ratio follows the share of its convex hull that it fills.
    """
    parts = regionprops(regions.astype(np.int32))
    if not parts:
        return ""
    shape, numbers = shape_word(parts[0]), f"{_axis_ratio(parts[0]):.1f} times as long as wide"
    if shape == "irregular":
        numbers = f"fills {100 * parts[0].solidity:.0f}% of its hull, {numbers}"
    places = list(dict.fromkeys(_place(part, regions.shape) for part in parts))
    share = 100 * np.count_nonzero(regions) / regions.size
    count = _COUNTS.get(len(parts), f"{len(parts)} regions")
    return (
        f"The {name} is {shape} ({numbers}), in the {' and the '.join(places)} of the image, "
        f"covers {_percent(share)} of it as {count}."
    )


def shape_word(part: object) -> str:
    """``round``, ``oval``, ``elongated`` or ``irregular`` for one of skimage's region properties."""
    if part.solidity < _IRREGULAR_SOLIDITY:  # type: ignore[attr-defined]
        return "irregular"
    ratio = _axis_ratio(part)
    if ratio < _ROUND_RATIO:
        return "round"
    return "oval" if ratio < _OVAL_RATIO else "elongated"


def _axis_ratio(part: object) -> float:
    short = part.axis_minor_length  # type: ignore[attr-defined]
    return float(part.axis_major_length / short) if short > 0 else float(max(1, part.area))  # type: ignore[attr-defined]


def _place(part: object, shape: tuple[int, ...]) -> str:
    row, column = part.centroid  # type: ignore[attr-defined]
    vertical = _ROWS[min(2, int(3 * row / shape[0]))]
    horizontal = _COLUMNS[min(2, int(3 * column / shape[1]))]
    if vertical == horizontal == "middle":
        return "centre"
    return f"{vertical} {horizontal}"


def _percent(share: float) -> str:
    return f"{share:.0f}%" if share >= 1 else "under 1%"
