"""Volumes whose axes run the other way than those trained on: turned over before they are cut, and back afterwards.

Arrays say nothing of the body: in one file columns run to the patient's left, in another to the right. A model of
where organs are must not see a liver on the wrong side, so the plan names the orientation of the training volumes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

_TOWARDS, _AWAY = "LPS", "RAI"  # SimpleITK's world axes run to the left, to the back (posterior), to the head


def orientation(properties: Mapping[str, Any]) -> str:
    """Where the file's axes x, y, z run, such as ``LPS``: the nearest body axis of each.

    Args:
        properties: of an image read; ``sitk_stuff`` holds its direction cosines.

    Returns:
        three letters; "" for pictures, for files without directions, and where two axes are nearest to the same body
        axis.
    """
    direction = (properties.get("sitk_stuff") or {}).get("direction", ())
    if len(direction) != 9:
        return ""
    cosines = np.reshape(direction, (3, 3))
    nearest = np.abs(cosines).argmax(0)
    if len(set(nearest.tolist())) < 3:
        return ""
    return "".join((_TOWARDS if cosines[n, axis] > 0 else _AWAY)[n] for axis, n in enumerate(nearest))


def most_common(orientations: Iterable[str]) -> str:
    """The orientation of most volumes; "" where none has one."""
    counted = Counter(one for one in orientations if one)
    return min(counted, key=lambda one: (-counted[one], one)) if counted else ""


def axes_to_flip(properties: Mapping[str, Any], wanted: str, name: str = "The volume") -> list[int]:
    """Axes of (Z, Y, X) to flip so that a volume lies as ``wanted`` says.

    Args:
        properties: of the image read.
        wanted: the plan's ``preprocessing.orientation``; "" flips nothing.
        name: of the volume, for the warning where its axes come in another order: it is then left as it lies.
    """
    found = orientation(properties)
    if not found or not wanted or found == wanted:
        return []
    if _body_axes(found) != _body_axes(wanted):
        log.warning(
            "%s has its axes in another order (%s) than the volumes of training (%s), so it is taken as it lies. "
            "Resample it to their order for a better result.", name, found, wanted,
        )
        return []
    return [2 - i for i in range(3) if found[i] != wanted[i]]  # x is the last axis of an array


def _body_axes(letters: str) -> list[int]:
    """The body axis that each letter is an end of."""
    return [max(_TOWARDS.find(letter), _AWAY.find(letter)) for letter in letters]


def flipped(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """(..., Z, Y, X) flipped along ``axes`` of (Z, Y, X); undone by the same call."""
    return np.ascontiguousarray(np.flip(array, [axis - 3 for axis in axes])) if len(axes) else array
