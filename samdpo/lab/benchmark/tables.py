"""One table, written as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from samdpo.files import write_text
from samdpo.lab.benchmark.statistics import Spread

Entry = str | float | int | Spread | None

_TEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "×": r"$\times$",
        "–": "--", "<": r"$<$", "—": "---"}


@dataclass(frozen=True)
class Section:
    """Rows that belong together, under a line of their own."""

    title: str
    rows: Sequence[Sequence[Entry]]


@dataclass(frozen=True)
class Table:
    """Columns, sections of rows, footnotes, and where every number comes from.

    Attributes:
        title: one sentence.
        columns: names; the first is that of the rows.
        sections: none of them empty.
        notes: footnotes, numbered from 1 where they are referred to as ``[1]``.
        remarks: sentences below the table.
        sources: lines that name run folders.
    """

    title: str
    columns: Sequence[str]
    sections: Sequence[Section]
    notes: Sequence[str] = ()
    remarks: Sequence[str] = ()
    sources: Sequence[str] = field(default=())


@dataclass
class Notes:
    """Footnotes, each once."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """``[2]``: the number of a footnote, which is added where it is new."""
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"


def write_table(table: Table, folder: Path, name: str) -> list[Path]:
    """Write ``name.md``, ``name.csv`` and ``name.tex``; returns the files."""
    texts = {".md": as_markdown(table), ".csv": as_csv(table), ".tex": as_tex(table)}
    for ending, text in texts.items():
        write_text(folder / f"{name}{ending}", text)
    return [folder / f"{name}{ending}" for ending in texts]


def as_text(entry: Entry) -> str:
    """``0.705 ± 0.054``, ``0.705`` or what was written; – for nothing."""
    if entry is None or (isinstance(entry, float) and math.isnan(entry)):
        return "–"
    if isinstance(entry, Spread):
        if entry.n == 0 or math.isnan(entry.mean):
            return "–"
        return f"{entry.mean:.3f}" + ("" if entry.sd is None else f" ± {entry.sd:.3f}")
    if isinstance(entry, float):
        return "<0.001" if 0 <= entry < 0.0005 else f"{entry:.3f}"
    return str(entry)


def as_markdown(table: Table) -> str:
    """A Markdown table, its footnotes, and below them the run folders."""
    lines = [f"# {table.title}", ""]
    for section in table.sections:
        lines += [f"## {section.title}", "", f"| {' | '.join(table.columns)} |", "|---" * len(table.columns) + "|"]
        lines += [f"| {' | '.join(as_text(entry).replace('|', '/') for entry in row)} |" for row in section.rows]
        lines.append("")
    lines += [f"[{number}] {note}\n" for number, note in enumerate(table.notes, 1)]
    lines += [f"{remark}\n" for remark in table.remarks]
    if table.sources:
        lines += ["## Runs", "", *(f"- {source}" for source in table.sources), ""]
    return "\n".join(lines)


def as_csv(table: Table) -> str:
    """One line a row with its section; a column of means and spreads becomes two columns of numbers."""
    rows = [(section.title, row) for section in table.sections for row in section.rows]
    spreads = {i for _, row in rows for i, entry in enumerate(row) if isinstance(entry, Spread)}
    header = ["section"]
    for i, name in enumerate(table.columns):
        header += [name, f"{name} sd"] if i in spreads else [name]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for title, row in rows:
        line: list[object] = [title]
        for i, entry in enumerate(row):
            if i in spreads:
                line += [_number(entry.mean), _number(entry.sd)] if isinstance(entry, Spread) else [entry or "", ""]
            else:
                line.append(_number(entry) if isinstance(entry, float) else "" if entry is None else entry)
        writer.writerow(line)
    for number, note in enumerate(table.notes, 1):
        writer.writerow([f"[{number}] {note}"])
    return out.getvalue()


def as_tex(table: Table) -> str:
    """A ``tabular`` with booktabs' rules, sections as lines across it; footnotes follow as text."""
    width = len(table.columns)
    lines = [f"% {table.title}", r"% needs \usepackage{booktabs}", rf"\begin{{tabular}}{{l{'c' * (width - 1)}}}",
             r"\toprule", " & ".join(map(_tex, table.columns)) + r" \\"]
    for section in table.sections:
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{{_tex(section.title)}}} \\", r"\midrule"]
        lines += [" & ".join(_tex(as_text(entry)) for entry in row) + r" \\" for row in section.rows]
    lines += [r"\bottomrule", r"\end{tabular}", ""]
    lines += [rf"{_tex(f'[{number}] {note}')}\\" for number, note in enumerate(table.notes, 1)]
    lines += [f"{_tex(remark)}\\\\" for remark in table.remarks]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> object:
    return "" if value is None or math.isnan(value) else round(value, 6)


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)
