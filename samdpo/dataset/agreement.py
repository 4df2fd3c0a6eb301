"""Whether a label belongs to its image and to dataset.json: the same sentences in the check and in the work itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from samdpo.dataset.geometry import difference, numbers
from samdpo.dataset.images import Volume

_SHOWN = 5  # values named in a sentence


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
    if tuple(shape) != image.data.shape[1:]:
        return (
            f"{label_file} has the size {size(shape)}, but its image {image_file.name} has "
            f"{size(image.data.shape[1:])}. They must lie on the same grid: export the label again on the image's grid."
        )
    ours, theirs = image.properties.get("sitk_stuff"), properties.get("sitk_stuff")
    key = difference(ours, theirs) if ours and theirs else None
    if key is None:
        return None
    return (
        f"{label_file} has the {key} {numbers(theirs[key])}, but its image {image_file.name} has {numbers(ours[key])}. "
        "Copy the image's geometry into the label, or resample it (nearest neighbour)."
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
    rest = len(unknown) - _SHOWN
    text = (
        f"{label_file} holds the value(s) {', '.join(map(str, unknown[:_SHOWN]))}"
        + (f" and {rest} more" if rest > 0 else "")
        + f", which dataset.json does not list; expected are {listing(labels)}."
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
