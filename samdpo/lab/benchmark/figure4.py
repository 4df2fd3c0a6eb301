"""Figure 4: pictures from image to contour, cases chosen by rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from samdpo.drawing import (
    GREEN,
    TRUTH_COLOUR,
    YELLOW,
    draw_image,
    draw_mask,
    draw_prompts,
    draw_saliency,
    save_figure,
)
from samdpo.lab.benchmark.cells import Cell
from samdpo.lab.benchmark.figure_cases import (
    Chosen,
    DrawnCase,
    DrawnPrompts,
    is_volume,
    load_case,
    of_each_dataset,
    panel_title,
    percentile_of,
)
from samdpo.lab.benchmark.figure_panels import (
    MASK_COLOUR,
    SMALL,
    Block,
    draw_contours,
    lay_out,
    marks_explained,
    name_above,
    name_panel,
    short_name,
)
from samdpo.lab.benchmark.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PERCENTILES = (10, 50, 90)  # of the reference method's Dice over the test cases
COARSE_COLOUR = GREEN
_PROMPT_COLUMNS = ("saliency from text", "coarse mask,\nbox, points")


@dataclass(frozen=True)
class Example:
    """The cases of one dataset: percentile of each, and the runs that were drawn."""

    chosen: Chosen
    cases: dict[int, DrawnCase]


def draw_figure4(records: Sequence[Record], cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Write ``figure4.png``: of each dataset of pictures the cases at the 10th, 50th and 90th percentile of Dice.

    Args:
        records: of all runs.
        cells: where their prompts, images and true masks lie.
        folder: to write to.

    Returns:
        the file; none where no dataset of pictures has a run that is done. What cannot be read is left out with a
        warning.
    """
    examples = of_each_dataset(
        records, cells, "Figure 4",
        lambda chosen: None if is_volume(chosen) else Example(chosen, choose_cases(chosen)),
    )
    if not examples:
        return []
    file = Path(folder) / "figure4.png"
    save_figure(figure4(examples), file)
    return [file]


def choose_cases(chosen: Chosen) -> dict[int, DrawnCase]:
    """Percentile -> case at which the reference's Dice lies there; a case is drawn once."""
    per_case = chosen.reference_run.per_case
    at = {percentile_of(per_case, percentile): percentile for percentile in reversed(PERCENTILES)}
    return {percentile: load_case(chosen, case) for case, percentile in sorted(at.items(), key=lambda item: item[1])}


def figure4(examples: Sequence[Example]) -> Figure:
    """The figure of :func:`draw_figure4`."""
    methods = [run.method for example in examples for run in example.chosen.runs]
    references = " or ".join(dict.fromkeys(short_name(example.chosen.reference) for example in examples))
    prompts = " Its prompts are shown." if any(map(_has_prompts, examples)) else ""
    page = lay_out([_block(example) for example in examples], legend=0.42, notes=[
        f"Cases: nearest to the 10th, 50th and 90th percentile of the Dice of “{references}” over the test cases. "
        f"Seed: that of its median Dice.{prompts}",
        marks_explained(methods),
    ])
    for example, rows in zip(examples, page.axes):
        for case, axes in zip(example.cases.values(), rows):
            _draw_row(axes, example.chosen, case, _has_prompts(example))
    page.figure.legend(handles=_legend(), loc="center", bbox_to_anchor=(0.5, page.height(0.2)), ncols=5,
                       frameon=False, fontsize=SMALL)
    return page.figure


def _block(example: Example) -> Block:
    chosen = example.chosen
    rows = [f"{_nth(percentile)}\n{case.case}" for percentile, case in example.cases.items()]
    shapes = [case.truth.shape for case in example.cases.values()]
    aspects = [float(np.clip(height / width, 0.4, 1.5)) for height, width in shapes]
    panels = 1 + len(_PROMPT_COLUMNS) * _has_prompts(example) + len(chosen.runs)
    return Block(f"{panel_title(chosen.dataset)}: {chosen.settings}", rows, aspects, panels)


def _has_prompts(example: Example) -> bool:
    return any(case.prompts is not None for case in example.cases.values())


def _nth(percentile: int) -> str:
    return "median" if percentile == 50 else f"{percentile}th percentile"


def _draw_row(axes: Sequence[Axes], chosen: Chosen, case: DrawnCase, has_prompts: bool) -> None:
    for one in axes:
        draw_image(one, case.image)
    name_above(axes[0], "image")
    if has_prompts:
        _draw_prompt_columns(axes[1], axes[2], case)
    for one, run in zip(axes[1 + len(_PROMPT_COLUMNS) * has_prompts :], chosen.runs):
        draw_contours(one, case.truth, case.masks.get(run.method))
        name_panel(one, run.method, run.per_case.get(case.case, np.nan))


def _draw_prompt_columns(saliency: Axes, coarse: Axes, case: DrawnCase) -> None:
    for axes, name in zip((saliency, coarse), _PROMPT_COLUMNS):
        name_above(axes, name)
    if case.prompts is None:
        return
    draw_saliency(saliency, case.prompts.saliency, case.truth.shape)
    draw_mask(coarse, case.prompts.coarse, COARSE_COLOUR, fill=0.35, width=0.8)
    _draw_boxes_and_points(coarse, case.prompts)


def _draw_boxes_and_points(axes: Axes, prompts: DrawnPrompts) -> None:
    """As :func:`samdpo.drawing.draw_prompts`, in the sizes of a small panel."""
    draw_prompts(axes, prompts.boxes, prompts.points)
    for box in axes.patches:
        box.set(linewidth=1.2, path_effects=[])
    axes.collections[-1].set(sizes=[11], linewidths=0.6)


def _legend() -> list:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.patheffects import Normal, Stroke

    rim = [Stroke(linewidth=3.4, foreground="black", alpha=0.55), Normal()]
    named = ((YELLOW, "box"), (TRUTH_COLOUR, "truth"), (MASK_COLOUR, "method"))
    box, truth, mask = (Line2D([], [], color=colour, linewidth=2, label=name, path_effects=rim)
                        for colour, name in named)
    points = Line2D([], [], color=YELLOW, marker="o", linestyle="", markeredgecolor="black", label="points")
    return [Patch(facecolor=COARSE_COLOUR, alpha=0.6, label="coarse mask"), box, points, truth, mask]
