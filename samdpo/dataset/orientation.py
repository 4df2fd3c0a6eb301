"""Volumes whose axes run another way than those trained on: turned before they are cut, and turned back afterwards.

Arrays say nothing of the body: in one file columns run to the patient's left, in another to the right or to the head.
A model of where organs are must not see a liver on the wrong side, so the plan names the orientation of the training
volumes, and each volume is permuted and flipped to it: voxels move, and none is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

_TOWARDS, _AWAY = "LPS", "RAI"  # SimpleITK's world axes run to the left, to the back (posterior), to the head
# Between the cosines of the best and the second assignment of axes to the body: within a degree of half-way is neither.
_CLEARLY = 0.05
_ORDER = (0, 1, 2)  # of (Z, Y, X), as in the file


@dataclass(frozen=True)
class Turn:
    """How an array is brought to the orientation of the plan, and back.

    Attributes:
        order: axes of the file's (Z, Y, X) in their new order.
        flips: axes of the new (Z, Y, X) that are flipped afterwards.
    """

    order: tuple[int, ...] = _ORDER
    flips: tuple[int, ...] = ()

    @classmethod
    def of(cls, properties: Mapping[str, Any]) -> Turn:
        """That of a case of the slice store; one without the keys lies as its file does."""
        return cls(tuple(properties.get("axes_order", _ORDER)), tuple(properties.get("flipped_axes", ())))

    def to_json(self) -> dict[str, list[int]]:
        """``axes_order`` and ``flipped_axes``, each only where something is done."""
        order = {} if self.order == _ORDER else {"axes_order": list(self.order)}
        return {**order, **({"flipped_axes": list(self.flips)} if self.flips else {})}

    def apply(self, array: np.ndarray) -> np.ndarray:
        """(..., Z, Y, X) of the file -> in the plan's orientation."""
        if self == AS_IT_LIES:
            return array
        lead = array.ndim - 3
        turned = np.transpose(array, (*range(lead), *(lead + axis for axis in self.order)))
        return np.ascontiguousarray(np.flip(turned, [axis - 3 for axis in self.flips]))

    def undo(self, array: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`apply`, to the last voxel."""
        if self == AS_IT_LIES:
            return array
        lead = array.ndim - 3
        back = np.argsort(self.order)
        straight = np.flip(array, [axis - 3 for axis in self.flips])
        return np.ascontiguousarray(np.transpose(straight, (*range(lead), *(lead + int(axis) for axis in back))))

    def along(self, values: Sequence[float]) -> tuple[float, ...]:
        """One value an axis, such as the spacing (z, y, x) of the file, in the new order."""
        return tuple(values[axis] for axis in self.order)


AS_IT_LIES = Turn()


def orientation(properties: Mapping[str, Any]) -> str:
    """Where the file's axes x, y, z run, such as ``LPS``: the body axes that lie nearest to the three together.

    Args:
        properties: of an image read; ``sitk_stuff`` holds its direction cosines.

    Returns:
        three letters; "" for pictures, for files without directions, and for axes half-way between those of the body.
    """
    direction = (properties.get("sitk_stuff") or {}).get("direction", ())
    if len(direction) != 9:
        return ""
    cosines = np.reshape(direction, (3, 3))
    fits = {rows: float(np.abs(cosines[list(rows), range(3)]).sum()) for rows in permutations(range(3))}
    nearest, second = sorted(fits, key=lambda rows: -fits[rows])[:2]
    if fits[nearest] - fits[second] < _CLEARLY:
        return ""
    return "".join((_TOWARDS if cosines[n, axis] > 0 else _AWAY)[n] for axis, n in enumerate(nearest))


def most_common(orientations: Iterable[str]) -> str:
    """The orientation of most volumes; "" where none has one."""
    counted = Counter(one for one in orientations if one)
    return min(counted, key=lambda one: (-counted[one], one)) if counted else ""


def turn_to(found: str, wanted: str) -> Turn:
    """How a volume of the orientation ``found`` becomes one of ``wanted``; where either is "", it stays as it lies."""
    if not found or not wanted:
        return AS_IT_LIES
    ours, theirs = _body_axes(found), _body_axes(wanted)
    source = [ours.index(body) for body in theirs]  # of each wanted axis x, y, z
    # x is the last axis of an array.
    order = tuple(2 - source[2 - axis] for axis in range(3))
    return Turn(order, tuple(2 - i for i in range(3) if found[source[i]] != wanted[i]))


def axial_axis(letters: str) -> int:
    """Axis of (Z, Y, X) that runs along the body, across axial slices; 0, nnU-Net's first, where nothing is known."""
    return 2 - _body_axes(letters).index(2) if letters else 0


def unknown_orientation(properties: Mapping[str, Any], wanted: str) -> str:
    """A part of a sentence where the plan asks for an orientation that a file does not tell; "" where all is known.

    Args:
        properties: of the image read; an array that came from no file has none, and its caller turns it.
        wanted: the plan's ``preprocessing.orientation``.
    """
    if not wanted or not properties or orientation(properties):
        return ""
    cause = "lie half-way between those of the body" if "sitk_stuff" in properties else "are not told by the file"
    return f"its axes {cause}, so it was taken as it lies; the model was trained on {wanted}"


def _body_axes(letters: str) -> list[int]:
    """The body axis that each letter is an end of."""
    return [max(_TOWARDS.find(letter), _AWAY.find(letter)) for letter in letters]
