"""Figure 3: Dice against the share of labelled data, one panel a dataset, one line a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from samdpo.drawing import new_figure, save_figure
from samdpo.lab.benchmark.figure_cases import dice_by_seed, main_runs, panel_title
from samdpo.lab.benchmark.figure_panels import (
    GREY,
    SMALL,
    TEXT,
    TITLE,
    competes,
    full_name,
    in_order,
    notes_height,
    style_of,
    wrapped,
    write_notes,
)
from samdpo.lab.benchmark.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Scores = Mapping[str, Mapping[float, Sequence[float]]]  # method -> share of labelled data -> Dice of each seed
_WIDTH, _ALONE, _GAP, _TOP, _BELOW_AXES = 2.6, 3.8, 0.7, 0.42, 0.6  # inches; _ALONE: a single panel
_LEFT_OF_LINES, _LEFT_OF_POINTS = 0.6, 1.8  # inches, for the numbers or the methods' names
_LEGEND_COLUMN, _LEGEND_ROW = 2.7, 0.175  # inches
_NOTE_LINES = "Line: mean over {seeds}. Shaded: least to greatest seed."
_NOTE_POINTS = "Large marker and number: mean over seeds (how many). Small: each seed. Bar: least to greatest."
_SEED_OFFSET = 0.3  # rows: seeds are drawn below their mean, so that neither hides the other
_NAME_LENGTH = 26  # characters of a line


def draw_figure3(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write ``figure3.png`` and ``figure3.pdf``.

    A dataset of several shares gets lines, shaded from the least to the greatest seed; one of a single share gets a
    row of points a method, the best on top. Methods that were given more than the others are named so: with a box
    from the truth their lines are dashed, with every label dotted.

    Args:
        records: of all runs; those that are not done or belong to an ablation are left out.
        folder: to write to.

    Returns:
        the files written; none where no run is done.
    """
    main = main_runs(records)
    several = len({one.plans_name for one in main}) > 1
    scores = {
        panel_title(dataset, plans if several else ""): dice_by_seed(
            one for one in main if (one.dataset, one.plans_name) == (dataset, plans)
        )
        for dataset, plans in sorted({(one.dataset, one.plans_name) for one in main})
    }
    if not scores:
        return []
    figure = figure3(scores)
    files = [Path(folder) / f"figure3.{ending}" for ending in ("png", "pdf")]
    for file in files:
        save_figure(figure, file)
    return files


def figure3(scores: Mapping[str, Scores]) -> Figure:
    """The figure of :func:`draw_figure3`.

    Args:
        scores: title of a panel -> method -> share of labelled data in (0, 1] -> Dice in [0, 1] of each seed.
    """
    lined = {panel for panel, methods in scores.items() if len(_shares(methods)) > 1}
    shown = in_order(method for panel in lined for method in scores[panel])
    rows = max((len(methods) for panel, methods in scores.items() if panel not in lined), default=0)
    lefts = [_LEFT_OF_LINES if panel in lined else _LEFT_OF_POINTS for panel in scores]
    wide = _WIDTH if len(scores) > 1 else _ALONE
    width = sum(lefts) + len(scores) * (wide + _GAP)
    columns = max(1, int(width / _LEGEND_COLUMN))
    lines = wrapped(_notes(scores, lined), width)
    above_notes = notes_height(lines)
    bottom = above_notes + _LEGEND_ROW * -(-len(shown) // columns) + _BELOW_AXES
    inner = max(2.6 if lined else 0.0, 0.34 * rows + 0.3)
    height = _TOP + inner + bottom
    figure = new_figure(width, height, dpi=200)
    x = 0.0
    for (panel, methods), left in zip(scores.items(), lefts):
        axes = figure.add_axes(((x + left) / width, bottom / height, wide / width, inner / height))
        (draw_lines if panel in lined else draw_dots)(axes, methods)
        only = "" if panel in lined else f", {100 * _shares(methods)[0]:.4g}% labelled"
        axes.set_title(f"{panel}{only}", fontsize=TITLE, pad=7)
        x += left + wide + _GAP
    if shown:
        figure.legend(handles=[_handle(method) for method in shown], loc="lower center", ncols=columns,
                      bbox_to_anchor=(0.5, above_notes / height), frameon=False, fontsize=SMALL, handlelength=3.4)
    write_notes(figure, lines)
    return figure


def draw_lines(axes: Axes, methods: Scores) -> None:
    """A panel of several shares; the axis of shares is logarithmic, since they double or more from one to the next."""
    opacity = float(np.clip(1.0 / len(methods), 0.08, 0.18))  # of the shades, which lie over one another
    for method, of_share in methods.items():  # in the order of the tables: ours come late and lie on top
        style = style_of(method)
        shares = sorted(of_share)
        least, mean, greatest = ([by(of_share[s]) for s in shares] for by in (np.min, np.mean, np.max))
        axes.fill_between(shares, least, greatest, color=style.colour, alpha=opacity, linewidth=0,
                          gid=f"seeds {method}")
        axes.plot(shares, mean, color=style.colour, linestyle=style.line, marker=style.marker, markersize=5.5,
                  linewidth=1.7, markerfacecolor=style.colour if competes(method) else "white", gid=f"mean {method}")
        if len(shares) == 1:
            axes.plot(shares * 2, [*least, *greatest], color=style.colour, linewidth=1.7, gid=f"bar {method}")
    ticks = _shares(methods)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{100 * share:.4g}%" for share in ticks])
    axes.minorticks_off()
    axes.set_xlabel("training cases with labels", fontsize=TEXT)
    axes.set_ylabel("Dice", fontsize=TEXT)
    axes.tick_params(labelsize=SMALL)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _shares(methods: Scores) -> list[float]:
    return sorted({share for of_share in methods.values() for share in of_share})


def _notes(scores: Mapping[str, Scores], lined: set[str]) -> list[str]:
    notes = [_NOTE_LINES.format(seeds=_seeds([scores[panel] for panel in lined]))] if lined else []
    return notes + ([_NOTE_POINTS] if len(lined) < len(scores) else [])


def _seeds(panels: Sequence[Scores]) -> str:
    counts = {len(dice) for methods in panels for of_share in methods.values() for dice in of_share.values()}
    least, most = min(counts), max(counts)
    return f"{most} seed{'s' * (most > 1)}" if least == most else f"{least} to {most} seeds"


def _handle(method: str) -> Line2D:
    from matplotlib.lines import Line2D

    style = style_of(method)
    return Line2D([], [], color=style.colour, linestyle=style.line, marker=style.marker, markersize=5.5, linewidth=1.7,
                  markerfacecolor=style.colour if competes(method) else "white", label=full_name(method))


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
