"""``progress.png``: how training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from samdpo.drawing import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
