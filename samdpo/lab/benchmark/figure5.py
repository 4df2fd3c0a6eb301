"""Figure 5: structures of a volume as surfaces, coloured by their distance to the truth's; slices of thin volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.dataset.images import read_label_with_properties
from samdpo.dataset.orientation import orientation
from samdpo.drawing import draw_image, save_figure
from samdpo.errors import DatasetError
from samdpo.evaluation.metrics import overlap_metrics
from samdpo.lab.benchmark.cells import Cell
from samdpo.lab.benchmark.figure_cases import (
    Chosen,
    is_volume,
    load_case,
    of_each_dataset,
    panel_title,
    percentile_of,
    read_masks,
    truth_file,
)
from samdpo.lab.benchmark.figure_panels import (
    SMALL,
    Block,
    Page,
    draw_contours,
    lay_out,
    marks_explained,
    name_above,
    name_panel,
    say_missing,
    short_name,
)
from samdpo.lab.benchmark.figure_surface import Surface, crop, render
from samdpo.lab.benchmark.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "RdBu_r"  # red and blue are told apart by the colour-blind, and grey between them is the truth
_LEAST_RANGE = 2.0  # mm: below it colours would show rounding
_TRUTH_TONE = np.array([0.93, 0.86, 0.74])  # of the truth's surface: no colour of the scale
WANTED = ("liver", "spleen")  # the paper's, where a case has both; else its two largest
FEWEST_SLICES = 12  # of a volume that is drawn as surfaces; a thinner one is drawn as slices
_BODY_AXES = ("SI", "PA", "LR")  # of (Z, Y, X) as it is drawn: to the head, to the back, to the patient's left
_MARGIN = 2  # voxels around what is drawn
_PIXELS = 260  # of a surface's picture


def draw_figure5(records: Sequence[Record], cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Write ``figure5.png``: of each dataset of volumes the case of median Dice, liver and spleen or the two largest.

    Args:
        records: of all runs.
        cells: where their images and true masks lie.
        folder: to write to.

    Returns:
        the file; none where no dataset of volumes has a run that is done. What cannot be read is left out with a
        warning.
    """
    scenes = of_each_dataset(
        records, cells, "Figure 5", lambda chosen: load_scene(chosen) if is_volume(chosen) else None
    )
    if not scenes:
        return []
    file = Path(folder) / "figure5.png"
    save_figure(figure5(scenes), file)
    return [file]


def figure5(scenes: Sequence[Scene]) -> Figure:
    """The figure of :func:`draw_figure5`."""
    surfaces = [s for scene in scenes for one in scene.structures for s in one.masks.values() if isinstance(s, Surface)]
    page = lay_out([_block(scene) for scene in scenes], legend=0.62 if surfaces else 0.0, notes=_notes(scenes))
    limit = colour_limit(surfaces)
    for scene, rows in zip(scenes, page.axes):
        for structure, axes in zip(scene.structures, rows):
            _draw_row(axes, scene, structure, limit)
    if surfaces:
        _colour_bar(page, limit)
    return page.figure


def _notes(scenes: Sequence[Scene]) -> list[str]:
    solid = [isinstance(one.truth, Surface) for scene in scenes for one in scene.structures]
    front = all(scene.from_front for scene in scenes)
    view = ", seen from the patient's front, a little from the right and from above" if front else ""
    references = " or ".join(dict.fromkeys(short_name(scene.chosen.reference) for scene in scenes))
    return [
        f"Surfaces, smoothed for display{view}." if any(solid) else "",
        "Slices: white truth, orange method; that with most of the structure." if not all(solid) else "",
        f"Case: that of the median Dice of “{references}” over the test cases, of two the lower. Seed: likewise.",
        marks_explained(run.method for scene in scenes for run in scene.chosen.runs),
    ]


def colour_limit(surfaces: Sequence[Surface]) -> float:
    """Distance in mm at which colours end: the 98th percentile of all that is seen, a whole number of mm."""
    seen = [np.abs(one.distance[np.isfinite(one.distance)]) for one in surfaces]
    distances = np.concatenate(seen) if seen else np.zeros(0)
    return max(_LEAST_RANGE, float(np.ceil(np.percentile(distances, 98)))) if len(distances) else _LEAST_RANGE


def _block(scene: Scene) -> Block:
    chosen = scene.chosen
    shapes = [(one.truth.shade if isinstance(one.truth, Surface) else one.truth).shape for one in scene.structures]
    aspects = [float(np.clip(height / width, 0.4, 1.3)) for height, width in shapes]
    header = f"{panel_title(chosen.dataset)}, {scene.case}: {chosen.settings}"
    return Block(header, [one.name.replace("_", " ") for one in scene.structures], aspects, 1 + len(chosen.runs))


def _draw_row(axes: Sequence[Axes], scene: Scene, structure: DrawnStructure, limit: float) -> None:
    name_above(axes[0], "truth")
    _draw_panel(axes[0], structure, structure.truth, None)
    if isinstance(structure.truth, Surface):
        _scale_bar(axes[0], structure.truth)
    for one, run in zip(axes[1:], scene.chosen.runs):
        if run.method in structure.masks:
            _draw_panel(one, structure, structure.masks[run.method], limit)
        else:
            one.set_axis_off()
            say_missing(one, "mask is missing")
        name_panel(one, run.method, structure.dice.get(run.method, np.nan))


def _draw_panel(axes: Axes, structure: DrawnStructure, shown: Surface | np.ndarray, limit: float | None) -> None:
    """Draw what one method has of a structure; without a ``limit`` it is the truth."""
    if isinstance(shown, Surface):
        draw_image_plain(axes, coloured(shown, limit))
        if not shown.seen.any():
            say_missing(axes, "nothing found")
        return
    draw_image(axes, structure.image)
    draw_contours(axes, structure.truth, np.zeros_like(shown) if limit is None else shown)


def coloured(surface: Surface, limit: float | None) -> np.ndarray:
    """(H, W, 3) picture of a surface on white: by distance up to ``limit`` mm, or in the truth's tone where None."""
    from matplotlib import colormaps

    if limit is None:
        colour = np.broadcast_to(_TRUTH_TONE, (*surface.shade.shape, 3))
    else:
        distance = np.nan_to_num(surface.distance, nan=0.0)
        colour = colormaps[COLOURS](np.clip(0.5 + 0.5 * distance / limit, 0, 1))[..., :3]
    picture = colour * np.nan_to_num(surface.shade)[..., None]
    return np.where(surface.seen[..., None], picture, 1.0)


def draw_image_plain(axes: Axes, picture: np.ndarray) -> None:
    """Show colours (H, W, 3) as they are, without frame or ticks."""
    axes.imshow(picture, interpolation="bilinear")
    axes.set_axis_off()


def _scale_bar(axes: Axes, surface: Surface) -> None:
    """5 cm, or 1 cm where that is too long, below the truth."""
    rows, columns = surface.shade.shape
    centimetres = 5 if 50 / surface.pixel < 0.6 * columns else 1
    length = 10 * centimetres / surface.pixel
    y = rows * 0.985
    axes.plot([0, length], [y, y], color="black", linewidth=2, solid_capstyle="butt", clip_on=False, gid="scale")
    axes.text(length + 0.03 * columns, y, f"{centimetres} cm", fontsize=SMALL, ha="left", va="center")
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)


def _colour_bar(page: Page, limit: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure = page.figure
    height, width = figure.get_figheight(), figure.get_figwidth()
    long = min(3.0, 0.6 * width)
    axes = figure.add_axes((0.5 - 0.5 * long / width, page.height(0.42), long / width, 0.1 / height))
    bar = figure.colorbar(ScalarMappable(Normalize(-limit, limit), COLOURS), cax=axes, orientation="horizontal",
                          extend="both")
    bar.set_label("mm from the truth's surface (blue: inside it, red: outside)", fontsize=SMALL, labelpad=2)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_linewidth(0.6)


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
