"""Test volumes as Figure 5 draws them: which case, which structures, seen from the patient's front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.dataset.images import read_label_with_properties
from samdpo.dataset.orientation import orientation
from samdpo.errors import DatasetError
from samdpo.evaluation.metrics import overlap_metrics
from samdpo.lab.benchmark.figure_cases import load_case, read_masks, truth_file
from samdpo.lab.benchmark.figure_records import Chosen, percentile_of
from samdpo.lab.benchmark.figure_surface import Surface, crop, render

WANTED = ("liver", "spleen")  # the paper's, where a case has both; else its two largest
FEWEST_SLICES = 12  # of a volume that is drawn as surfaces; a thinner one is drawn as slices
_BODY_AXES = ("SI", "PA", "LR")  # of (Z, Y, X) as it is drawn: to the head, to the back, to the patient's left
_MARGIN = 2  # voxels around what is drawn
_PIXELS = 260  # of a surface's picture


@dataclass(frozen=True)
class DrawnStructure:
    """A structure of a case as the truth has it and as each method segmented it.

    Attributes:
        name: of the structure.
        dice: method -> Dice in this case.
        truth: its surface; of a thin volume its mask (H, W) bool on ``image``.
        masks: method -> as ``truth``.
        image: (H, W, 3) slice of a thin volume; None where surfaces are drawn.
    """

    name: str
    dice: dict[str, float]
    truth: Surface | np.ndarray
    masks: dict[str, Surface | np.ndarray]
    image: np.ndarray | None = None


@dataclass(frozen=True)
class Scene:
    """The case that is drawn of one dataset; ``from_front`` says whether the file tells where the front is."""

    chosen: Chosen
    case: str
    structures: list[DrawnStructure]
    from_front: bool


def load_scene(chosen: Chosen) -> Scene:
    """The case of the reference's median Dice, with two structures of it.

    Raises:
        DatasetError: a file is missing or damaged, or the truth holds no structure.
    """
    case = percentile_of(chosen.reference_run.per_case, 50)
    truth, read = read_label_with_properties(truth_file(chosen, case))
    masks = read_masks(chosen, case)
    labels = choose_structures(truth, load_dataset_json(chosen.preprocessed).structures)
    if not labels:
        raise DatasetError(f"{truth_file(chosen, case)} holds none of the structures that dataset.json names.")
    thin = min(truth.shape) < FEWEST_SLICES
    structures = [
        _as_slice(chosen, case, name, label, truth, masks) if thin else _as_surfaces(name, label, truth, masks, read)
        for name, label in labels.items()
    ]
    return Scene(chosen, case, structures, bool(orientation(read)))


def choose_structures(truth: np.ndarray, structures: Mapping[str, int]) -> dict[str, int]:
    """:data:`WANTED` where the truth shows both, else the two structures with most voxels: name -> label."""
    voxels = {name: int(np.count_nonzero(truth == label)) for name, label in structures.items()}
    largest = sorted((name for name in voxels if voxels[name]), key=lambda name: -voxels[name])
    names = WANTED if set(WANTED) <= set(largest) else largest[:2]
    return {name: structures[name] for name in names}


def body_axes(properties: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """How an array (Z, Y, X) is turned so that Z runs to the head, Y to the back, X to the patient's left.

    Args:
        properties: of the image read.

    Returns:
        (axes in their new order, axes to flip afterwards); as the array lies where the file says nothing.
    """
    letters = orientation(properties)[::-1]  # of Z, Y, X
    if not letters:
        return [0, 1, 2], []
    order = [next(axis for axis, letter in enumerate(letters) if letter in pair) for pair in _BODY_AXES]
    return order, [axis for axis, old in enumerate(order) if letters[old] != _BODY_AXES[axis][0]]


def _as_surfaces(
    name: str, label: int, truth: np.ndarray, masks: Mapping[str, np.ndarray], read: Mapping[str, Any]
) -> DrawnStructure:
    order, flips = body_axes(read)
    turned = [np.flip(np.transpose(one == label, order), flips) for one in (truth, *masks.values())]
    z, y, x = (float(read["spacing"][axis]) for axis in order)
    whole, *parts = _cut_out(turned)
    own, *others = crop([render(part, whole, (z, y, x), _PIXELS) for part in (whole, *parts)])
    return DrawnStructure(name, _dice(label, truth, masks), own, dict(zip(masks, others)))


def _as_slice(
    chosen: Chosen, case: str, name: str, label: int, truth: np.ndarray, masks: Mapping[str, np.ndarray]
) -> DrawnStructure:
    shown = load_case(chosen, case, label)
    flat = {method: mask == label for method, mask in shown.masks.items()}
    return DrawnStructure(name, _dice(label, truth, masks), shown.truth == label, flat, shown.image)


def _dice(label: int, truth: np.ndarray, masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {method: float(overlap_metrics(mask == label, truth == label)["Dice"]) for method, mask in masks.items()}


def _cut_out(masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The box that holds all masks, so that every panel of a row has one scale."""
    inside = np.argwhere(np.any(masks, axis=0))
    box = tuple(
        slice(max(0, low - _MARGIN), high + 1 + _MARGIN) for low, high in zip(inside.min(0), inside.max(0))
    )
    return [mask[box] for mask in masks]
