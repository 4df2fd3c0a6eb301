"""Whether a label belongs to its image and to dataset.json: the same sentences in the check and in the work itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.dataset.geometry import difference, numbers, turn_between
from samdpo.dataset.images import read_label_with_properties
from samdpo.dataset.orientation import Turn
from samdpo.dataset.volume import UNKNOWN_SPACING, Volume
from samdpo.errors import DatasetError, few


def read_listed_label(file: Path, labels: Mapping[str, int]) -> tuple[np.ndarray, dict[str, Any]]:
    """A label map (Z, Y, X) int16 and its properties; only of values that ``labels`` of dataset.json lists.

    Raises:
        DatasetError: cannot be read, is no label map, or holds other values.
    """
    values, properties = read_label_with_properties(file)
    problem = value_problem(file, np.unique(values).tolist(), labels)
    if problem:
        raise DatasetError(problem)
    return values, properties


def onto_grid(
    of: Path, shape: tuple[int, ...], properties: Mapping[str, Any],
    file: Path, values: np.ndarray, their_properties: Mapping[str, Any], what: str = "reference",
) -> np.ndarray:
    """``values`` on the grid of another file: as they are, or with their axes in its order and directions.

    Args:
        of: the file whose grid is wanted.
        shape: (Z, Y, X) of it.
        properties: of it, as read.
        file: that holds ``values``.
        values: (Z, Y, X) as read.
        their_properties: of ``file``, as read.
        what: ``of`` is to ``file``, for the sentence.

    Raises:
        DatasetError: the grids are not the same voxels of space; see :func:`grids_problem`.
    """
    problem = grids_problem(of, shape, properties, file, values.shape, their_properties, what)
    if problem is None:
        return values
    ours, theirs = properties.get("sitk_stuff"), their_properties.get("sitk_stuff")
    turn = turn_between(ours, shape, theirs, values.shape) if ours and theirs else None
    if turn is None:
        raise DatasetError(problem)
    return Turn(*turn).apply(values)


def grid_problem(
    image_file: Path, image: Volume, label_file: Path, shape: tuple[int, ...], properties: Mapping[str, Any]
) -> str | None:
    """A sentence where image and label do not lie on the same grid; None where they do.

    Args:
        image_file: of the first channel.
        image: as read.
        label_file: of the label.
        shape: (Z, Y, X) of the label.
        properties: of the label, as read.
    """
    return grids_problem(image_file, image.data.shape[1:], image.properties, label_file, shape, properties, "image")


def grids_problem(
    of: Path, shape: tuple[int, ...], properties: Mapping[str, Any],
    file: Path, their_shape: tuple[int, ...], their_properties: Mapping[str, Any], what: str,
) -> str | None:
    """As :func:`grid_problem` for any two files; ``of`` is the ``what`` of ``file``: its image, its reference.

    Sizes are compared always, spacing, origin and direction where both files have them; of stacks of pictures the
    spacings that are written beside them.
    """
    remedies = {"image": ("export the label again on the image's grid", "Copy the image's geometry into the label")}
    other = (f"resample it onto that of its {what}, if they are of one image",
             f"Copy the geometry of its {what} into it")
    to_size, to_geometry = remedies.get(what, other)
    name = of if of.name == file.name else of.name
    if tuple(their_shape) != tuple(shape):
        return (
            f"{file} has the size {size(their_shape)}, but its {what} {name} has {size(shape)}. They must lie on the "
            f"same grid: {to_size}."
        )
    ours, theirs = properties.get("sitk_stuff"), their_properties.get("sitk_stuff")
    key = difference(ours, theirs) if ours and theirs else None
    if not ours and not theirs:
        ours, theirs = properties, their_properties
        known = all("spacing" in p and tuple(p["spacing"]) != UNKNOWN_SPACING for p in (ours, theirs))
        close = known and np.allclose(ours["spacing"], theirs["spacing"], rtol=1e-3)
        key = "spacing" if known and not close else None
    if key is None:
        return None
    return (
        f"{file} has the {key} {numbers(theirs[key])}, but its {what} {name} has {numbers(ours[key])}. "
        f"{to_geometry}, or resample it (nearest neighbour)."
    )


def value_problem(label_file: Path, values: Iterable[int], labels: Mapping[str, int]) -> str | None:
    """A sentence where a label holds values that dataset.json does not list; None where it lists all.

    Args:
        label_file: of the label.
        values: found in it.
        labels: name -> value, of dataset.json.
    """
    found = set(values)
    unknown = sorted(found - set(labels.values()))
    if not unknown:
        return None
    text = (
        f"{label_file} holds the value(s) {few(unknown)}, which dataset.json does not list; expected are "
        f"{listing(labels)}."
    )
    structures = [name for name, value in labels.items() if value and name != "ignore"]
    if len(found) == 2 and 0 in found and len(structures) == 1:
        name, other = structures[0], unknown[0]
        text += f" It looks like a mask of 0 and {other}: write {labels[name]} for {name} in place of {other}."
        if other == 255:
            text += (
                " A new dataset with such masks written anew is made by: samdpo_convert_folder IMAGES MASKS -n NAME "
                f"-d ID --labels background {name}"
            )
        return text
    return f"{text} Correct the label, or add the value to 'labels'."


def mixed_dimensions(ndims: Mapping[Path, int]) -> str | None:
    """A sentence where some images have two dimensions and others three; None where all have the same.

    Args:
        ndims: first file of each case -> :attr:`samdpo.dataset.images.Volume.ndim`.
    """
    of = {ndim: [file for file, found in ndims.items() if found == ndim] for ndim in (2, 3)}
    if not of[2] or not of[3]:
        return None
    odd, usual = sorted((2, 3), key=lambda ndim: len(of[ndim]))
    rest = f" (and {len(of[odd]) - 1} more)" if len(of[odd]) > 1 else ""
    return (
        f"{of[odd][0]}{rest} has {odd} dimensions, but {len(of[usual])} images such as {of[usual][0].name} have "
        f"{usual}. Put pictures and volumes into datasets of their own, or save a picture as a volume of one slice "
        "with its thickness."
    )


def listing(labels: Mapping[str, int]) -> str:
    """``0 = background, 1 = lung``"""
    return ", ".join(f"{value} = {name}" for name, value in labels.items())


def size(shape: tuple[int, ...]) -> str:
    """(Z, Y, X) as a person reads it: width x height, and slices where there are several."""
    z, y, x = shape
    return f"{x} x {y}" + (f" x {z}" if z > 1 else "")
