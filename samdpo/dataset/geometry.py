"""Where a volume lies in space: what a geometry must be, and whether two are the same.

A geometry is SimpleITK's: ``spacing`` (x, y, z) in mm, ``origin`` (x, y, z) in mm, ``direction`` row by row.
Oblique axes and left-handed ones are kept as they are. Axes that are not perpendicular are refused: programs differ in
how they read them, so that a mask might be shown beside its image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

PERPENDICULAR = 1e-3  # largest cosine between two axes that counts as rounding: 0.06 degrees
# Tools round when they write: two files of one image may differ by so much.
_RELATIVE = {"spacing": 1e-3}
_ABSOLUTE = {"origin": 1e-2, "direction": 1e-3}  # mm; cosines

_REWRITE = "Correct its header, or export it again from its source."
NO_SIZE = f"has a spacing of 0 along an axis; voxels must have a size. {_REWRITE}"
NO_AXIS = f"has an axis without direction. {_REWRITE}"
NOT_PERPENDICULAR = (
    "has axes that are not perpendicular to each other (sheared). Resample the image and its label onto a grid of "
    "perpendicular axes, the label with nearest neighbour."
)

Geometry = Mapping[str, Sequence[float]]


def flaw(geometry: Geometry) -> str | None:
    """What is wrong with a geometry, as a sentence that lacks the file's name in front; None if nothing is."""
    for key in ("spacing", "origin", "direction"):
        if not np.isfinite(geometry[key]).all():
            return f"has the {key} {numbers(geometry[key])}, which is not finite. {_REWRITE}"
    if min(geometry["spacing"]) == 0:
        return NO_SIZE
    if min(geometry["spacing"]) < 0:
        return f"has the spacing {numbers(geometry['spacing'])}; the size of a voxel is above 0. {_REWRITE}"
    n = len(geometry["spacing"])
    return flaw_of_axes(np.reshape(geometry["direction"], (n, n)))


def flaw_of_axes(axes: np.ndarray) -> str | None:
    """As :func:`flaw` for a finite matrix (n, n) whose columns are axes of any length."""
    lengths = np.linalg.norm(axes, axis=0)
    if not lengths.all():
        return NO_AXIS
    unit = axes / lengths
    cosines = np.abs(unit.T @ unit - np.eye(len(axes)))
    return NOT_PERPENDICULAR if cosines.max() > PERPENDICULAR else None


def difference(ours: Geometry, theirs: Geometry) -> str | None:
    """The first of spacing, origin and direction in which two geometries differ by more than rounding."""
    for key in ("spacing", "origin", "direction"):
        one, other = np.asarray(ours[key], float), np.asarray(theirs[key], float)
        close = {"rtol": _RELATIVE.get(key, 0.0), "atol": _ABSOLUTE.get(key, 0.0)}
        if one.shape != other.shape or not np.allclose(one, other, **close):
            return key
    return None


def turn_between(
    ours: Geometry, shape: Sequence[int], theirs: Geometry, their_shape: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """What brings their array onto our grid where both hold the same voxels of space in another order of axes.

    Args:
        ours: a geometry of three axes.
        shape: (Z, Y, X) of our array.
        theirs: likewise.
        their_shape: (Z, Y, X) of their array.

    Returns:
        the axes of their (Z, Y, X) in our order, and the axes of the result that are then turned over; None where they
        are not the same voxels, but for rounding, or where an axis is missing.
    """
    if len(ours["spacing"]) != 3 or len(theirs["spacing"]) != 3:
        return None
    axes, their_axes = (np.reshape(g["direction"], (3, 3)) for g in (ours, theirs))
    towards = axes.T @ their_axes  # cosine of each of our axes with each of theirs: (ours, theirs), x first
    order = np.abs(towards).argmax(1)
    signs = np.sign(towards[range(3), order])
    if len(set(order.tolist())) < 3:
        return None
    size, their_size = np.array(shape[::-1]), np.array(their_shape[::-1])
    their_spacing = np.asarray(theirs["spacing"], float)
    # Where their voxel of index 0 would lie, once what runs backwards begins at its other end.
    begin = np.asarray(theirs["origin"], float)
    for axis, sign in zip(order, signs):
        if sign < 0:
            begin = begin + their_axes[:, axis] * their_spacing[axis] * (their_size[axis] - 1)
    turned = {"spacing": their_spacing[order], "origin": begin, "direction": (their_axes[:, order] * signs).ravel()}
    if not np.array_equal(size, their_size[order]) or difference(ours, turned):
        return None
    # Axes of arrays are counted from the other end: z, y, x.
    return tuple(int(2 - order[2 - i]) for i in range(3)), tuple(i for i in range(3) if signs[2 - i] < 0)


def numbers(values: Sequence[float]) -> str:
    """``(0.5, 0.5, 3)``"""
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"

