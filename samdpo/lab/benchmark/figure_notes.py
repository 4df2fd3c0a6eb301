"""Notes at the bottom of a figure: what is drawn and by which rule, so that it can be read without its caption."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from samdpo.lab.benchmark.figure_style import GREY, SMALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINE, _CHARACTER, _MARGIN = 0.16, 0.066, 0.1  # inches of small text, and below it


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
