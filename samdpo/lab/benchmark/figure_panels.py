"""What the figures look like: how a method is drawn in each, rows of panels that wrap, and notes at the bottom.

Figures 4 and 5 have a panel a method, more than a page is wide. Notes say what is drawn and by which rule, so that a
figure can be read without its caption.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from samdpo.drawing import BLUE, GREEN, ORANGE, PURPLE, SKY, TRUTH_COLOUR, VERMILION, draw_mask, new_figure
from samdpo.lab.benchmark.methods import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT, SMALL, TITLE = 9.0, 8.0, 11.0  # points
GREY = "0.35"
MASK_COLOUR = ORANGE
_MOST_COLUMNS = 9  # panels side by side; more go below
_PAGE, _SMALLEST, _LARGEST = 12.0, 1.3, 2.1  # inches: width aimed at, and what a panel's width may be
_GAP, _NAME, _LEFT, _RIGHT = 0.06, 0.36, 0.4, 0.08  # inches: between panels, above one, left and right of a row
_HEADER, _BETWEEN = 0.36, 0.1  # inches: above a block of rows, between rows
_NAME_LENGTH = 0.075  # inches a character, of names written upright
_LINE, _CHARACTER, _MARGIN = 0.16, 0.066, 0.1  # inches of small text, and below it


@dataclass(frozen=True)
class MethodStyle:
    """Colour and marker tell methods apart, both for themselves; the line tells what a method was given."""

    colour: str
    marker: str | tuple
    line: str | tuple = "-"


_STYLES = {
    "align": MethodStyle(BLUE, "o"),
    "align_preferences": MethodStyle("#117733", (4, 1, 0)),
    "align_paper": MethodStyle("#DDCC77", "H"),
    "finetune": MethodStyle(ORANGE, "s"),
    "best_candidate": MethodStyle(PURPLE, "D"),
    "self_training": MethodStyle(GREEN, "^"),
    "mean_teacher": MethodStyle(SKY, "v"),
    "fixmatch": MethodStyle("#882255", "P"),
    "mean_teacher_encoder": MethodStyle("#004488", "1"),
    "fixmatch_encoder": MethodStyle("#EE99AA", "2"),
    "unet": MethodStyle("#999933", "X"),
    "nnunet": MethodStyle(VERMILION, "<"),
    "self_prompt": MethodStyle("#CC6677", ">"),
    "sam": MethodStyle("#332288", "h"),
    "sam_med2d": MethodStyle("#44AA99", "p"),
    "sam_med3d": MethodStyle("#661100", "d"),
    "prompt_only": MethodStyle("#000000", "*", (0, (1, 1.2))),
}
_SPARE = MethodStyle("#7F7F7F", "8")
_DASHED = (0, (4, 2))


def style_of(method: str) -> MethodStyle:
    """Style of a method: of the longest known name that it begins with, so that ``sam_truth_box`` is as ``sam``.

    The line is dashed where the prompt at test comes from the truth.
    """
    known = [name for name in _STYLES if method == name or method.startswith(f"{name}_")]
    base = _STYLES[max(known, key=len)] if known else _SPARE
    return MethodStyle(base.colour, base.marker, _DASHED if truth_prompt(method) else base.line)


def in_order(methods: Iterable[str]) -> list[str]:
    """Methods in the order of the tables; unknown ones last."""
    order = list(METHODS)
    return sorted(set(methods), key=lambda method: (order.index(method) if method in order else len(order), method))


def full_name(method: str) -> str:
    """What a table calls a method; says what it was given that others were not."""
    return METHODS[method].title if method in METHODS else method.replace("_", " ")


def short_name(method: str) -> str:
    """:func:`full_name` for narrow panels: :func:`mark_of` and its footnote say what it was given."""
    return re.sub(r", (LoRA|all labels|[^,]* at test)| \((align|finetune)\)", "", full_name(method))


def truth_prompt(method: str) -> bool:
    """Whether the prompt at test comes from the truth."""
    return method in METHODS and METHODS[method].truth_prompt


def competes(method: str) -> bool:
    """Whether a method was given what the others were, so that its place among them means something."""
    return method not in METHODS or METHODS[method].competes


def mark_of(method: str) -> str:
    """Mark of a method that was given more than the others; :func:`marks_explained` says what."""
    return "" if competes(method) else "†" if truth_prompt(method) else "‡"


def marks_explained(methods: Iterable[str]) -> str:
    """What the marks of ``methods`` mean; "" where none has one."""
    said = {"†": "† prompted at test from the truth.", "‡": "‡ trained with the labels of all training cases."}
    found = {mark_of(method) for method in methods}
    return " ".join(text for mark, text in said.items() if mark in found)


@dataclass(frozen=True)
class Block:
    """Rows under one header.

    Attributes:
        header: what is drawn.
        rows: name of each.
        aspects: height of a panel over its width, of each row.
        panels: in each row.
    """

    header: str
    rows: Sequence[str]
    aspects: Sequence[float]
    panels: int


@dataclass(frozen=True)
class Page:
    """A figure with its axes, ``axes[block][row][panel]``, and the inches from its bottom to the legend's."""

    figure: Figure
    axes: list[list[list[Axes]]]
    above_notes: float

    def height(self, inches: float) -> float:
        """Share of the figure's height that lies ``inches`` above the notes."""
        return (self.above_notes + inches) / self.figure.get_figheight()


@dataclass(frozen=True)
class _Grid:
    columns: int
    panel: float  # width, inches

    def strips(self, block: Block) -> int:
        return -(-block.panels // self.columns)

    def row_height(self, block: Block, row: int) -> float:
        return self.strips(block) * (_NAME + self.panel * block.aspects[row]) + _BETWEEN

    def block_height(self, block: Block) -> float:
        return _HEADER + sum(self.row_height(block, row) for row in range(len(block.rows)))

    def places(self, block: Block, row: int) -> Iterator[tuple[float, float]]:
        """(left, inches below the row's top) of each panel."""
        for panel in range(block.panels):
            strip, column = divmod(panel, self.columns)
            below = strip * (_NAME + self.panel * block.aspects[row]) + _NAME
            yield _LEFT + column * (self.panel + _GAP), below


def lay_out(blocks: Sequence[Block], legend: float, notes: Sequence[str]) -> Page:
    """Make a figure with an axes for each panel and notes at its bottom.

    Args:
        blocks: from top to bottom.
        legend: inches left free between blocks and notes.
        notes: a line each, wrapped where it is longer than the figure is wide.
    """
    grid = _grid(blocks)
    width = _LEFT + grid.columns * grid.panel + (grid.columns - 1) * _GAP + _RIGHT
    lines = wrapped(notes, width)
    above_notes = notes_height(lines)
    height = above_notes + legend + sum(map(grid.block_height, blocks))
    figure = new_figure(width, height, dpi=170)
    write_notes(figure, lines)
    top, axes = height, []
    for block in blocks:
        axes.append(_add_block(figure, grid, block, top))
        top -= grid.block_height(block)
    return Page(figure, axes, above_notes)


def _grid(blocks: Sequence[Block]) -> _Grid:
    """Rows are cut into strips of about one length, rather than full ones and a short one."""
    columns = max(-(-block.panels // -(-block.panels // _MOST_COLUMNS)) for block in blocks)
    return _Grid(columns, float(np.clip(_PAGE / columns, _SMALLEST, _LARGEST)))


def _add_block(figure: Figure, grid: _Grid, block: Block, top: float) -> list[list[Axes]]:
    width, height = figure.get_figwidth(), figure.get_figheight()
    figure.text(0.06 / width, (top - 0.5 * _HEADER) / height, block.header, ha="left", va="center", fontsize=TEXT,
                fontweight="bold", gid="header")
    top -= _HEADER
    rows = []
    for row, (name, aspect) in enumerate(zip(block.rows, block.aspects)):
        used = grid.row_height(block, row)
        middle = top - 0.5 * (used - _BETWEEN + _NAME)
        most = max(8, int((used - _BETWEEN) / _NAME_LENGTH))
        fitting = "\n".join(line if len(line) <= most else f"{line[: most - 1]}…" for line in name.split("\n"))
        figure.text(0.45 * _LEFT / width, middle / height, fitting, rotation=90, ha="center", va="center",
                    fontsize=SMALL)
        rows.append([
            figure.add_axes((left / width, (top - below - grid.panel * aspect) / height, grid.panel / width,
                             grid.panel * aspect / height), anchor="N")
            for left, below in grid.places(block, row)
        ])
        top -= used
    return rows


def name_panel(axes: Axes, method: str, dice: float) -> None:
    """Method and Dice above a panel."""
    said = "Dice –" if np.isnan(dice) else f"Dice {dice:.3f}"
    name_above(axes, f"{short_name(method)}{mark_of(method)}", said)


def name_above(axes: Axes, name: str, below: str = "") -> None:
    """One or two lines above a panel."""
    axes.set_title(f"{name}\n{below}" if below else name, fontsize=SMALL, pad=3, linespacing=1.15)


def say_missing(axes: Axes, text: str) -> None:
    """Words in the middle of a panel."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=SMALL, color=GREY,
              bbox={"facecolor": "white", "edgecolor": "none", "pad": 2})


def draw_contours(axes: Axes, truth: np.ndarray, mask: np.ndarray | None) -> None:
    """A method's contours over the truth's, structure by structure; label maps (H, W), or bool.

    Without a mask it is said so: an empty picture would look like a method that found nothing.
    """
    for label in np.unique(truth[truth > 0]):
        draw_mask(axes, truth == label, TRUTH_COLOUR, width=0.9)
    if mask is None:
        say_missing(axes, "mask is missing")
        return
    for label in np.unique(mask[mask > 0]):
        draw_mask(axes, mask == label, MASK_COLOUR, width=0.9)


def wrapped(notes: Iterable[str], width: float) -> list[str]:
    """Lines of at most ``width`` inches; each note begins a new one, empty notes none."""
    return [line for note in notes for line in textwrap.wrap(note, int(width / _CHARACTER))]


def notes_height(lines: Sequence[str]) -> float:
    """Inches that the lines take from the figure's bottom."""
    return _MARGIN + _LINE * len(lines)


def write_notes(figure: Figure, lines: Sequence[str]) -> None:
    """Write lines at the bottom, the first on top."""
    for number, line in enumerate(reversed(lines)):
        y = _MARGIN + _LINE * (number + 0.5)
        figure.text(0.5, y / figure.get_figheight(), line, ha="center", va="center", fontsize=SMALL, color=GREY)
