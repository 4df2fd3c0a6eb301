"""A panel of Figure 3 for one share of labelled data: a row of points a method, the best on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from samdpo.lab.benchmark.figure_style import GREY, SMALL, TEXT, competes, full_name, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SEED_OFFSET = 0.3  # rows: seeds are drawn below their mean, so that neither hides the other
_NAME_LENGTH = 26  # characters of a line


def draw_dots(axes: Axes, methods: Mapping[str, Mapping[float, Sequence[float]]]) -> None:
    """Draw a panel.

    Args:
        axes: to draw on.
        methods: method -> the one share -> Dice of each seed.
    """
    scores = {method: next(iter(of_share.values())) for method, of_share in methods.items()}
    best_first = sorted(scores, key=lambda method: -np.mean(scores[method]))
    alike = [method for method in best_first if competes(method)]
    more = [method for method in best_first if not competes(method)]
    rows = {method: float(row) for row, method in enumerate(alike)}
    rows.update({method: len(alike) + 0.5 * bool(alike) + row for row, method in enumerate(more)})
    for method, row in rows.items():
        _draw_row(axes, method, scores[method], row)
    if alike and more:
        axes.axhline(len(alike) - 0.25, color=GREY, linewidth=0.8, linestyle=":", gid="more")
    axes.set_yticks(list(rows.values()), [_in_two_lines(full_name(method)) for method in rows], fontsize=SMALL)
    axes.set_ylim(max(rows.values()) + 0.6, -0.6)
    axes.set_xlabel("Dice", fontsize=TEXT)
    axes.tick_params(axis="x", labelsize=SMALL)
    axes.locator_params(axis="x", nbins=6)
    axes.margins(x=0.06)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _in_two_lines(name: str) -> str:
    """A long name is broken where it begins to say what the method was given."""
    start, comma, rest = name.rpartition(", ")
    return f"{start},\n{rest}" if comma and len(name) > _NAME_LENGTH else name


def _draw_row(axes: Axes, method: str, dice: Sequence[float], row: float) -> None:
    style = style_of(method)
    (bar,) = axes.plot([min(dice), max(dice)], [row, row], color=style.colour, linewidth=2.2, linestyle=style.line,
                       gid=f"bar {method}", solid_capstyle="butt", dash_capstyle="butt")
    bar.set_alpha(0.75)
    if len(dice) > 1:
        axes.plot(dice, [row + _SEED_OFFSET] * len(dice), linestyle="", marker="o", markersize=3,
                  color=style.colour, alpha=0.7, markeredgewidth=0, gid=f"seeds {method}")
    hollow = style.colour if competes(method) else "white"
    axes.plot([np.mean(dice)], [row], linestyle="", marker=style.marker, markersize=8, color=style.colour,
              markerfacecolor=hollow, markeredgewidth=1.4, gid=f"mean {method}")
    axes.annotate(f"{np.mean(dice):.3f} ({len(dice)})", (1.03, row), xycoords=("axes fraction", "data"), va="center",
                  fontsize=SMALL, gid=f"number {method}")
