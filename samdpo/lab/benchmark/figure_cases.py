"""The runs and the test cases that a figure draws, by rule, not by taste.

Figures 4 and 5 draw image, truth and masks on one grid of square pixels, prompts beside them.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.dataset.images import read_label, read_label_with_properties
from samdpo.dataset.orientation import Turn
from samdpo.errors import SamdpoError
from samdpo.lab.benchmark.cells import Cell
from samdpo.lab.benchmark.figure_panels import in_order
from samdpo.lab.benchmark.methods import METHODS
from samdpo.lab.benchmark.records import Record
from samdpo.paths import PLANS_NAME
from samdpo.plans import load_plans
from samdpo.preprocessing.slicing import resize_plane
from samdpo.preprocessing.store import SliceStore

if TYPE_CHECKING:
    from samdpo.prompting.prompt import StructurePrompt

log = logging.getLogger(__name__)

_Key, _Read = TypeVar("_Key"), TypeVar("_Read")
REFERENCE = "align"  # whose Dice chooses the cases that are drawn, where it was run
_LONGER = 384  # pixels of a drawn image: finer contours would not be seen


@dataclass(frozen=True)
class Chosen:
    """The runs of one seed that a figure of cases draws.

    Attributes:
        dataset: ``DatasetXXX_Name``.
        reference: the method whose Dice chose the seed and chooses the cases.
        runs: one a method, in the figures' order; all of one cell.
        cell: with the prompts, slices and true masks.
    """

    dataset: str
    reference: str
    runs: tuple[Record, ...]
    cell: Cell

    @property
    def reference_run(self) -> Record:
        """The run of the reference."""
        return next(run for run in self.runs if run.method == self.reference)

    @property
    def preprocessed(self) -> Path:
        """``nnUNet_preprocessed/DATASET`` of the cell."""
        return self.cell.preprocessed / self.dataset

    @property
    def settings(self) -> str:
        """What the runs were given, in words."""
        labels = f"{100 * self.runs[0].labelled:.4g}% labelled"
        count = self.reference_run.n_labelled
        cases = "" if count is None else f" ({count} case{'s' * (count != 1)})"
        return f"{labels}{cases}, seed {self.runs[0].seed}"


def main_runs(records: Iterable[Record]) -> list[Record]:
    """Runs of the main comparison that have a Dice: no ablation, no share of unlabelled images left out."""
    return [one for one in records if one.has_dice and one.method in METHODS and one.unlabelled is None]


def dice_by_seed(runs: Iterable[Record]) -> dict[str, dict[float, list[float]]]:
    """Method -> share of labelled data -> Dice of each seed; the folds of a seed are averaged."""
    found: dict[str, dict[float, dict[int, list[float]]]] = {}
    for one in runs:
        of_seed = found.setdefault(one.method, {}).setdefault(one.labelled, {})
        of_seed.setdefault(one.seed, []).append(one.metrics["Dice"])
    return {
        method: {
            share: [float(np.mean(of_seed[seed])) for seed in sorted(of_seed)]
            for share, of_seed in sorted(found[method].items())
        }
        for method in in_order(found)
    }


def choose_runs(records: Sequence[Record], cells: Sequence[Cell], dataset: str) -> Chosen | None:
    """The runs to draw cases of: the smallest share of labels, the usual plan, the first fold, the seed of median Dice.

    Args:
        records: of all datasets.
        cells: of the benchmark.
        dataset: wanted.

    Returns:
        None where no run of it is done whose cell is among ``cells``.
    """
    at = {(cell.labelled, cell.seed): cell for cell in cells if cell.unlabelled is None}
    runs = [one for one in main_runs(records) if one.dataset == dataset and (one.labelled, one.seed) in at]
    if not runs:
        return None
    runs = _of_first(runs, lambda one: one.labelled)
    runs = _of_first(runs, lambda one: (one.plans_name != PLANS_NAME, one.plans_name))
    runs = _of_first(runs, lambda one: one.fold)
    methods = in_order(one.method for one in runs)
    reference = REFERENCE if REFERENCE in methods else methods[0]
    seed = percentile_of({one.seed: one.metrics["Dice"] for one in runs if one.method == reference}, 50)
    drawn = {one.method: one for one in runs if one.seed == seed}
    return Chosen(dataset, reference, tuple(drawn[method] for method in in_order(drawn)), at[runs[0].labelled, seed])


def of_each_dataset(
    records: Sequence[Record], cells: Sequence[Cell], figure: str, read: Callable[[Chosen], _Read | None]
) -> list[_Read]:
    """What ``read`` makes of the chosen runs of each dataset; one that cannot be read is left out with a warning.

    Args:
        records: of all datasets.
        cells: of the benchmark.
        figure: for the warning.
        read: gives None for a dataset that the figure does not draw.
    """
    found = []
    for dataset in sorted({one.dataset for one in records}):
        try:
            chosen = choose_runs(records, cells, dataset)
            made = None if chosen is None else read(chosen)
        except (SamdpoError, OSError, ValueError) as error:
            log.warning("%s is drawn without %s: %s", figure, dataset, error)
            continue
        if made is not None:
            found.append(made)
    return found


def _of_first(runs: Sequence[Record], key: Callable[[Record], Any]) -> list[Record]:
    first = min(map(key, runs))
    return [one for one in runs if key(one) == first]


def percentile_of(values: Mapping[_Key, float], percentile: float) -> _Key:
    """The key whose value lies nearest to a percentile (0 to 100) of all; of two as near the lower. NaN is left out.

    Raises:
        ValueError: there is no number among the values.
    """
    ordered = sorted((value, key) for key, value in values.items() if math.isfinite(value))
    if not ordered:
        raise ValueError("there is no number to choose from")
    return ordered[math.ceil(percentile / 100 * (len(ordered) - 1) - 0.5)][1]


def panel_title(dataset: str, plans: str = "") -> str:
    """``Lung Xray, PLANS`` of ``Dataset101_LungXray``."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", dataset.partition("_")[2]).replace("_", " ")
    return f"{words}, {plans}" if plans else words


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
        if case in store.cases():
            return drawn_prompts(store.as_new.get(case, index), shape, size)
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
