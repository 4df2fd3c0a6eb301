"""Prompts of many slices as a few arrays and back, so that a volume's file has a handful of entries."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
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


def unpack(packed: Mapping[str, np.ndarray], row: int) -> dict[str, np.ndarray]:
    """The arrays of one row, by field name of :class:`StructurePrompt`."""
    return PackedPrompts(packed).arrays(row)


class PackedPrompts:
    """Packed prompts of a case as they are held in memory: regions are squeezed, to a hundredth of their size.

    Args:
        packed: what :func:`pack` gave.

    Raises:
        KeyError: an array is missing.
    """

    def __init__(self, packed: Mapping[str, np.ndarray]) -> None:
        self._stacked = {name: packed[name] for name in _STACKED}
        self._ragged = {name: packed[name] for name in _RAGGED}
        self._ends = {name: np.cumsum(packed[f"{name}_length"]) for name in _RAGGED}
        self._size = tuple(packed["size"])
        self._regions_row = packed["regions_row"]
        self._regions = [zlib.compress(regions, 1) for regions in np.ascontiguousarray(packed["regions"])]
        arrays = (*self._stacked.values(), *self._ragged.values(), *self._ends.values(), self._regions_row)
        self.nbytes = sum(array.nbytes for array in arrays) + sum(map(len, self._regions))

    def arrays(self, row: int) -> dict[str, np.ndarray]:
        """The arrays of one row, by field name of :class:`StructurePrompt`."""
        fields = {name: array[row] for name, array in self._stacked.items()}
        for name, array in self._ragged.items():
            start = self._ends[name][row - 1] if row else 0
            fields[name] = array[start : self._ends[name][row]]
        at = int(self._regions_row[row])
        fields["regions"] = np.zeros(self._size, np.uint8)
        if at >= 0:
            fields["regions"].reshape(-1)[:] = np.frombuffer(zlib.decompress(self._regions[at]), np.uint8)
        return fields
