"""Prompts of many slices as a few arrays and back, so that a volume's file has a handful of entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from samdpo.prompting.prompt import StructurePrompt

_RAGGED = ("boxes", "points", "hypotheses", "hypothesis_scores")
_STACKED = ("saliency", "text_embedding")


def pack(prompts: Sequence[StructurePrompt]) -> dict[str, Any]:
    """Arrays of all rows; ragged ones one after another with their lengths; regions only where there are any."""
    packed: dict[str, Any] = {name: np.stack([getattr(p, name) for p in prompts]) for name in _STACKED}
    for name in _RAGGED:
        packed[name] = np.concatenate([getattr(p, name) for p in prompts])
        packed[f"{name}_length"] = np.array([len(getattr(p, name)) for p in prompts], np.int32)
    drawn = [row for row, prompt in enumerate(prompts) if prompt.regions.any()]
    size = prompts[0].regions.shape
    packed["regions"] = np.stack([prompts[row].regions for row in drawn]) if drawn else np.zeros((0, *size), np.uint8)
    packed["regions_row"] = np.full(len(prompts), -1, np.int32)
    packed["regions_row"][drawn] = np.arange(len(drawn))
    packed["size"] = np.array(size, np.int32)
    return packed


def unpack(packed: dict[str, np.ndarray], row: int) -> dict[str, np.ndarray]:
    """The arrays of one row, by field name of :class:`StructurePrompt`."""
    fields = {name: packed[name][row] for name in _STACKED}
    for name in _RAGGED:
        lengths = packed[f"{name}_length"]
        start = int(lengths[:row].sum())
        fields[name] = packed[name][start : start + int(lengths[row])]
    at = int(packed["regions_row"][row])
    fields["regions"] = packed["regions"][at] if at >= 0 else np.zeros(tuple(packed["size"]), np.uint8)
    return fields
