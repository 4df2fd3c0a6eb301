"""Figures of a run: what happens to an image from saliency to aligned contour, and how training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from samdpo.evaluation.metrics import overlap_metrics
from samdpo.evaluation.overlays import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    TRUTH_COLOUR,
    VERMILION,
    YELLOW,
    draw_image,
    draw_mask,
    draw_prompts,
    draw_saliency,
    new_figure,
    save_figure,
)

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
    titles = ("image", "saliency from text", "coarse mask, box, points", "finetuned", "aligned")
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


History = Mapping[str, Sequence[float]]


def progress_figure(history: History, path: Path) -> None:
    """``progress.png`` as nnU-Net draws it: losses, Dice, learning rate, seconds an epoch; rewards where logged.

    Args:
        history: metric -> one number an epoch (NaN: nothing to show). Understood: ``loss``, ``train_losses``,
            ``val_losses``, ``loss/...``; every name with ``dice``; every name with ``lr``; ``epoch_seconds`` or
            nnU-Net's ``epoch_start_timestamps`` and ``epoch_end_timestamps``; TRL's ``rewards/...``. A metric that
            was logged in fewer epochs belongs to the last ones. Other names are not drawn.
        path: the PNG to write.
    """
    panels = [p for p in _progress_panels(history) if p[2]]
    if not panels:
        return
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    figure = new_figure(6.4 * columns, 3.5 * rows, dpi=110)
    epochs = max(len(values) for values in history.values())
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (title, unit, curves) in zip(grid, panels):
        _draw_curves(axes, title, unit, curves, epochs)
    for axes in grid[len(panels):]:
        axes.set_visible(False)
    figure.tight_layout(h_pad=1.6, w_pad=2.0)
    save_figure(figure, path)


Panel = tuple[str, str, dict[str, Sequence[float]]]


def _progress_panels(history: History) -> list[Panel]:
    def pick(*names: str) -> dict[str, Sequence[float]]:
        return {name: history[name] for name in history if name in names and np.isfinite(history[name]).any()}

    losses = [n for n in history if n in ("loss", "train_losses", "val_losses") or n.startswith("loss/")]
    dice = pick(*[n for n in history if "dice" in n.lower() and np.ndim(history[n]) == 1])
    if len(dice) == 1 and len(values := next(iter(dice.values()))) > 10:
        dice["moving average"] = _moving_average(values)
    seconds = pick("epoch_seconds")
    if not seconds and "epoch_end_timestamps" in history:
        starts, ends = history["epoch_start_timestamps"], history["epoch_end_timestamps"]
        seconds = {"epoch_seconds": [end - start for start, end in zip(starts, ends)]}
    return [
        ("Loss", "loss", pick(*losses)),
        ("Pseudo Dice", "Dice", dice),
        ("Rewards", "reward (log-ratio)", pick("rewards/chosen", "rewards/rejected", "rewards/margins")),
        ("Preferences followed", "share of images", pick("rewards/accuracies")),
        ("Learning rate", "learning rate", pick(*[n for n in history if _is_learning_rate(n)])),
        ("Time", "seconds an epoch", seconds),
    ]


def _is_learning_rate(name: str) -> bool:
    return bool({"lr", "lrs"} & set(name.lower().replace("/", "_").split("_")))


def _moving_average(values: Sequence[float], share: float = 0.1) -> list[float]:
    """nnU-Net's: nine tenths of the last average and one tenth of the new value; NaN values are passed over."""
    average, result = float("nan"), []
    for value in values:
        if not np.isnan(value):
            average = value if np.isnan(average) else (1 - share) * average + share * value
        result.append(average)
    return result


def _draw_curves(axes: Axes, title: str, unit: str, curves: dict[str, Sequence[float]], epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    for colour, (name, values) in zip((BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION) * 3, curves.items()):
        x = np.arange(epochs - len(values) + 1, epochs + 1)
        faint = name != "moving average" and "moving average" in curves
        stairs = {"drawstyle": "steps-mid"} if unit == "learning rate" else {}
        axes.plot(x, values, color=colour, linewidth=1.2 if faint else 2, marker="o",
                  markersize=4 if epochs <= 30 else 0, alpha=0.6 if faint else 1, label=name, **stairs)
    axes.set_title(title, fontsize=12, loc="left", fontweight="bold")
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(0.5, epochs + 0.5)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if unit == "share of images":
        axes.set_ylim(0, 1.03)
        axes.axhline(0.5, color="0.6", linewidth=1, linestyle=":")
    if unit.startswith("reward"):
        axes.axhline(0, color="0.6", linewidth=1, linestyle=":")
    if unit == "learning rate":
        axes.yaxis.set_major_formatter("{x:.1e}")
        axes.set_ylim(bottom=0)
    if unit.startswith("seconds"):
        axes.set_ylim(0, 1.15 * max(np.nanmax([v for values in curves.values() for v in values]), 1e-3))
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=9)
