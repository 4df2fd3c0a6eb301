"""The figure of a run: what happens to an image from saliency to aligned contour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from samdpo.drawing import (
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    TRUTH_COLOUR,
    YELLOW,
    draw_image,
    draw_mask,
    draw_prompts,
    draw_saliency,
    new_figure,
    save_figure,
)
from samdpo.evaluation.metrics import overlap_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FINETUNED_COLOUR, ALIGNED_COLOUR, COARSE_COLOUR, ERROR_COLOUR = ORANGE, SKY, GREEN, PURPLE


@dataclass(frozen=True)
class DemoRow:
    """One case of :func:`demo_figure`. Masks are (H, W) bool of the image's size; boxes and points in its pixels."""

    title: str  # left of the row: case, structure
    image: np.ndarray  # (H, W) or (3, H, W)
    saliency: np.ndarray  # (h, w), any size and range
    coarse_mask: np.ndarray
    boxes: np.ndarray  # (K, 4) xyxy
    points: np.ndarray  # (P, 2) xy
    finetuned: np.ndarray
    aligned: np.ndarray
    truth: np.ndarray


def demo_figure(rows: Sequence[DemoRow], path: Path, panel: float = 2.9) -> None:
    """One row a case: image, saliency, coarse mask with prompts, finetuned and aligned outline against the truth.

    Args:
        rows: the cases, top to bottom.
        path: the PNG to write.
        panel: width and height of a panel, inches.
    """
    titles = ("image", "where to look", "coarse mask, box, points", "finetuned", "aligned")
    gap, left, top, bottom = 0.06, 0.42, 0.42, 0.55
    width = left + len(titles) * (panel + gap)
    height = top + len(rows) * (panel + gap) + bottom
    figure = new_figure(width, height, dpi=110)
    for r, row in enumerate(rows):
        y = height - top - (r + 1) * panel - r * gap
        figure.text(0.5 * left / width, (y + panel / 2) / height, row.title, rotation=90, ha="center", va="center",
                    fontsize=13)
        for c, title in enumerate(titles):
            x = left + c * (panel + gap)
            axes = figure.add_axes((x / width, y / height, panel / width, panel / height))
            _demo_panel(axes, row, c)
            axes.set_aspect("auto")  # panels are square, as the network sees every image
            if r == 0:
                axes.set_title(title, fontsize=14, pad=8)
    figure.legend(handles=_demo_legend(), loc="center", bbox_to_anchor=(0.5, 0.5 * bottom / height), ncols=7,
                  frameon=False, fontsize=12, handlelength=1.8, columnspacing=1.6)
    save_figure(figure, path)


def _demo_panel(axes: Axes, row: DemoRow, column: int) -> None:
    draw_image(axes, row.image)
    if column == 1:
        draw_saliency(axes, row.saliency, row.truth.shape)
    elif column == 2:
        draw_mask(axes, row.coarse_mask, COARSE_COLOUR, fill=0.35, width=1.4)
        draw_prompts(axes, row.boxes, row.points)
    elif column >= 3:
        mask, colour = (row.finetuned, FINETUNED_COLOUR) if column == 3 else (row.aligned, ALIGNED_COLOUR)
        draw_mask(axes, mask != row.truth, ERROR_COLOUR, fill=0.65, width=0)
        draw_mask(axes, row.truth, TRUTH_COLOUR, width=1.5)
        draw_mask(axes, mask, colour, width=1.8)
        dice = overlap_metrics(np.asarray(mask, bool), np.asarray(row.truth, bool))["Dice"]
        axes.text(0.97, 0.03, f"Dice {dice:.3f}", transform=axes.transAxes, ha="right", va="bottom", fontsize=13,
                  color="white", bbox={"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 3})


def _demo_legend() -> list:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def line(colour: str, label: str) -> Line2D:
        from matplotlib.patheffects import Normal, Stroke

        rim = [Stroke(linewidth=4, foreground="black", alpha=0.55), Normal()]
        return Line2D([], [], color=colour, linewidth=2.5, label=label, path_effects=rim)

    dot = Line2D([], [], color=YELLOW, marker="o", linestyle="", markeredgecolor="black", markersize=7, label="points")
    return [
        Patch(facecolor=COARSE_COLOUR, alpha=0.6, label="coarse mask"), line(YELLOW, "box"), dot,
        line(TRUTH_COLOUR, "truth"), line(FINETUNED_COLOUR, "finetuned"), line(ALIGNED_COLOUR, "aligned"),
        Patch(facecolor=ERROR_COLOUR, alpha=0.75, label="differs from the truth"),
    ]
