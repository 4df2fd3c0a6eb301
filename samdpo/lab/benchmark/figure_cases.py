"""Test cases as Figures 4 and 5 draw them: image, truth and masks on one grid of square pixels, prompts beside them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.dataset.images import read_label, read_label_with_properties
from samdpo.dataset.orientation import Turn
from samdpo.lab.benchmark.figure_records import Chosen
from samdpo.lab.benchmark.methods import METHODS
from samdpo.plans import load_plans
from samdpo.preprocessing.slicing import resize_plane
from samdpo.preprocessing.store import SliceStore

if TYPE_CHECKING:
    from samdpo.prompting.prompt import StructurePrompt

log = logging.getLogger(__name__)
_LONGER = 384  # pixels of a drawn image: finer contours would not be seen


@dataclass(frozen=True)
class DrawnPrompts:
    """Prompts of all structures of a slice, in pixels of the drawn image.

    Attributes:
        saliency: (h, w) foreground probability, the greatest of all structures; of any size.
        coarse: (H, W) bool.
        boxes: (K, 4) xyxy.
        points: (P, 2) xy.
    """

    saliency: np.ndarray
    coarse: np.ndarray
    boxes: np.ndarray
    points: np.ndarray


@dataclass(frozen=True)
class DrawnCase:
    """A slice of a test case on a grid of square pixels.

    Attributes:
        case: identifier.
        image: (H, W, 3) float32 in [0, 1].
        truth: (H, W) label map; 0 where nothing is known.
        masks: method -> (H, W) label map, of those whose file is there.
        prompts: None where there are none.
    """

    case: str
    image: np.ndarray
    truth: np.ndarray
    masks: dict[str, np.ndarray]
    prompts: DrawnPrompts | None


def truth_file(chosen: Chosen, case: str) -> Path:
    """True label map of a test case."""
    return chosen.preprocessed / "gt_segmentations" / f"{case}{_ending(chosen)}"


def read_masks(chosen: Chosen, case: str) -> dict[str, np.ndarray]:
    """Method -> label map (Z, Y, X) that it predicted for a test case; one that is not there is left out, and said."""
    masks = {}
    for run in chosen.runs:
        folder = run.summary.parent if run.summary else run.folder / METHODS[run.method].validation
        file = folder / f"{case}{_ending(chosen)}"
        if file.is_file():
            masks[run.method] = read_label(file)
        else:
            log.warning("%s is missing, so %s is drawn without it.", file, case)
    return masks


def is_volume(chosen: Chosen) -> bool:
    """Whether the test cases have more than one slice."""
    case = min(chosen.reference_run.per_case)
    return min(read_label(truth_file(chosen, case)).shape) > 1


def load_case(chosen: Chosen, case: str, structure: int | None = None) -> DrawnCase:
    """Read a picture, or the slice of a volume that shows most of the truth.

    Args:
        chosen: the runs.
        case: one of their test cases.
        structure: label that chooses the slice of a volume; None for all labels.

    Raises:
        DatasetError: image or truth is missing, or a file is damaged.
    """
    plans = load_plans(chosen.preprocessed / f"{chosen.reference_run.plans_name}.json")
    store = SliceStore(chosen.preprocessed / plans.preprocessing.data_identifier)
    properties, geometry = store.properties(case), store.geometry(case)
    truth, read = read_label_with_properties(truth_file(chosen, case))
    truth = np.where(truth == load_dataset_json(chosen.preprocessed).ignore_label, 0, truth)
    turn = Turn.of(properties)
    planes = np.moveaxis(turn.apply(truth), geometry.axis, 0)
    shown = planes > 0 if structure is None else planes == structure
    index = int(np.count_nonzero(shown, axis=(1, 2)).argmax())
    sides = np.delete(np.asarray(turn.along(read["spacing"]), float), geometry.axis)
    shape = _square_pixels(geometry.slice_shape, (sides[0], sides[1]))
    image = np.stack([resize_plane(channel, shape) for channel in store.image(case, index)], axis=-1)
    masks = {
        method: np.moveaxis(turn.apply(mask), geometry.axis, 0)
        for method, mask in read_masks(chosen, case).items()
    }
    return DrawnCase(
        case, image, _resize_labels(planes[index], shape),
        {method: _resize_labels(mask[index], shape) for method, mask in masks.items()},
        _prompts(chosen, case, index, shape, geometry.image_size),
    )


def _prompts(chosen: Chosen, case: str, index: int, shape: tuple[int, int], size: int) -> DrawnPrompts | None:
    from samdpo.prompting.prompt_store import PromptStore  # brings torch

    run = chosen.reference_run
    of_plan = chosen.preprocessed / f"{run.plans_name}_prompts" / f"fold_{run.fold}"
    for folder in (run.folder / "prompts", of_plan):  # the model's own, where training refitted them
        store = PromptStore(folder)
        if store.has(case):
            return drawn_prompts(store.get(case, index), shape, size)
    return None


def drawn_prompts(prompts: list[StructurePrompt], shape: tuple[int, int], size: int) -> DrawnPrompts:
    """Prompts of a square slice of ``size`` pixels, on an image of ``shape`` (H, W)."""
    scale = np.array([shape[1] / size, shape[0] / size])
    saliency = np.max([1 / (1 + np.exp(-prompt.saliency.astype(np.float32))) for prompt in prompts], axis=0)
    coarse = np.any([prompt.coarse_mask for prompt in prompts], axis=0)
    boxes = np.concatenate([prompt.boxes.reshape(-1, 4) for prompt in prompts])
    points = np.concatenate([prompt.points.reshape(-1, 2) for prompt in prompts])
    return DrawnPrompts(
        saliency, _resize_labels(coarse, shape).astype(bool),
        boxes * np.tile(scale, 2) - 0.5,  # a box's sides lie between pixels, whose middles are drawn at whole numbers
        (points + 0.5) * scale - 0.5,
    )


def _ending(chosen: Chosen) -> str:
    return load_dataset_json(chosen.preprocessed).file_ending


def _square_pixels(shape: tuple[int, int], spacing: tuple[float, float]) -> tuple[int, int]:
    """(rows, columns) of square pixels that cover a slice of ``shape``, the longer side _LONGER."""
    height, width = shape[0] * spacing[0], shape[1] * spacing[1]
    scale = _LONGER / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resize_labels(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Nearest neighbour; labels stay whole numbers."""
    dtype = labels.dtype
    picture = Image.fromarray(np.ascontiguousarray(labels, np.int32))
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.NEAREST)).astype(dtype)
