"""The effort study: Dice of the test cases against the minutes of an annotator, a line a kind of answer.

It begins at ``finetune``, of which nobody has asked anything yet. Beside the lines stand methods that ask nobody, and
what the labels of all training cases give.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from samdpo.drawing import BLUE, GREEN, ORANGE, PURPLE, new_figure, save_figure
from samdpo.lab.benchmark.figure_cases import panel_title
from samdpo.lab.benchmark.figure_panels import (
    GREY,
    SMALL,
    TEXT,
    TITLE,
    MethodStyle,
    full_name,
    notes_height,
    style_of,
    wrapped,
    write_notes,
)
from samdpo.lab.benchmark.methods import ABLATIONS, ASKED, ASKING, ASKS, MINUTES_ASKED
from samdpo.lab.benchmark.records import Record
from samdpo.lab.benchmark.statistics import Spread, spread
from samdpo.lab.benchmark.tables import Entry, Notes, Section, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

COLUMNS = ("asked for", "minutes allowed", "minutes spent", "answers", "seeds", "n", "Dice", "against finetune",
           "share of the full-label gain", "model kept")
# Methods that learn from the same images and ask nobody.
NOBODY = ("mean_teacher", "fixmatch", "mean_teacher_encoder", "fixmatch_encoder", "own_order")
START = "finetune"
ALL_LABELS = "all labels"
_STYLES = {
    "outlines": MethodStyle(PURPLE, "D"), "boxes": MethodStyle(ORANGE, "s"), "orders": MethodStyle(GREEN, "^"),
    "mixture": MethodStyle(BLUE, "o"),
}
_FLAT = {  # of horizontal lines; dashes, so that they can be told apart without colours
    "mean_teacher": (0, (7, 2)), "fixmatch": (0, (3, 1.5)), "own_order": (0, (6, 1.5, 1, 1.5)),
    "mean_teacher_encoder": (0, (7, 1, 1, 1, 1, 1)), "fixmatch_encoder": (0, (3, 1, 1, 1)),
    ALL_LABELS: (0, (1, 1.2)),
}
_WIDE, _HIGH, _LEFT, _RIGHT, _TOP, _BELOW_AXES = 4.2, 3.1, 0.65, 0.75, 0.42, 0.6  # inches
_LEGEND_COLUMN, _LEGEND_ROW = 2.6, 0.175  # inches
_LINEAR_TO = 2.0  # minutes, from which the axis is logarithmic

BySeed = Mapping[int, Record]


@dataclass(frozen=True)
class Point:
    """Answers of one kind in so many minutes, over the seeds.

    Attributes:
        asks: kind of the answers.
        minutes_allowed: of the annotator.
        runs: by seed. A seed at which fewer minutes were enough for every image has the run of these minutes.
    """

    asks: str
    minutes_allowed: float
    runs: BySeed

    @property
    def minutes(self) -> float:
        """That were spent, mean over seeds."""
        return fmean(run.asked.minutes for run in self.runs.values())

    @property
    def dice(self) -> list[float]:
        """Of each seed."""
        return dice_of(self.runs)


@dataclass(frozen=True)
class Study:
    """What is drawn in one panel: one data set and share of labels.

    Attributes:
        dataset: ``DatasetXXX_Name``.
        labelled: share of the training cases.
        start: ``finetune`` by seed.
        points: in the order of their kinds and minutes.
        nobody: methods that ask nobody, by seed.
        everything: what learned from the labels of all training cases, by seed; may be empty.
        everything_title: what that is.
        failed: runs of the study that failed.
    """

    dataset: str
    labelled: float
    start: BySeed
    points: Sequence[Point]
    nobody: Mapping[str, BySeed] = field(default_factory=dict)
    everything: BySeed = field(default_factory=dict)
    everything_title: str = ""
    failed: Sequence[Record] = ()

    def share(self, runs: BySeed) -> float | None:
        """Share of the gain of all labels over ``finetune`` that some runs reach, over the seeds that have all three.

        None where there is no such seed, or all labels gain nothing.
        """
        seeds = runs.keys() & self.start.keys() & self.everything.keys()
        if not seeds:
            return None
        start, mine, whole = (fmean(of[seed].metrics["Dice"] for seed in seeds)
                              for of in (self.start, runs, self.everything))
        return (mine - start) / (whole - start) if whole > start else None

    def gain(self, runs: BySeed) -> Spread:
        """Dice above ``finetune`` of the same seed."""
        seeds = sorted(runs.keys() & self.start.keys())
        return spread([runs[seed].metrics["Dice"] - self.start[seed].metrics["Dice"] for seed in seeds])


def dice_of(runs: BySeed) -> list[float]:
    """Of each seed, in the order of the seeds."""
    return [runs[seed].metrics["Dice"] for seed in sorted(runs)]


def studies_of(records: Sequence[Record]) -> list[Study]:
    """One a data set and share of labels where a point of the study was run; those without ``finetune`` are left out.

    Args:
        records: of all runs of one plan.
    """
    found = []
    for dataset, labelled in sorted({(r.dataset, r.labelled) for r in records if r.stage in ASKED}):
        of_dataset = [r for r in records if r.dataset == dataset and r.unlabelled is None]
        here = [r for r in of_dataset if r.labelled == labelled]
        points, start = _points(here), _by_seed(here, START)
        if not points or not start:
            continue
        whole, title = _by_seed([r for r in of_dataset if r.labelled == 1], START), "finetune, all labels"
        if not whole.keys() & start.keys():
            whole, title = _by_seed(here, "prompt_only"), full_name("prompt_only")
        nobody = {name: runs for name in NOBODY if (runs := _by_seed(here, name))}
        found.append(Study(dataset, labelled, start, points, nobody, whole, title,
                           [r for r in here if r.stage in ASKED and r.status == "failed"]))
    return found


def _by_seed(records: Iterable[Record], method: str) -> dict[int, Record]:
    return {r.seed: r for r in records if r.method == method and r.has_dice}


def _points(records: Sequence[Record]) -> list[Point]:
    """Those of the study and the stages that differ from it in their minutes at most."""
    runs: dict[str, dict[float, dict[int, Record]]] = {asks: {} for asks in ASKS}
    for r in records:
        if r.asked is not None and r.asked.asks in runs and (r.stage in ASKED or r.stage in ASKING) and r.has_dice:
            runs[r.asked.asks].setdefault(r.asked.minutes_allowed, {}).setdefault(r.seed, r)
    return [point for asks, of_kind in runs.items() for point in _points_of(asks, of_kind)]


def _points_of(asks: str, of_minutes: Mapping[float, dict[int, Record]]) -> list[Point]:
    whole: dict[int, Record] = {}  # by seed: the first run that has asked about everything
    points = []
    for minutes in sorted(of_minutes, key=lambda minutes: minutes or math.inf):  # 0 is no limit
        here = of_minutes[minutes]
        fresh = here.keys() - whole.keys()
        if fresh:  # else more minutes changed nothing at any seed
            points.append(Point(asks, minutes, {**here, **whole}))
        whole |= {seed: run for seed, run in here.items() if seed in fresh and run.asked.everything}
    return points


# ---- table -----------------------------------------------------------------------------------------------------------


def effort_table(records: Sequence[Record], root: Path) -> Table | None:
    """Every point, what it cost and what it gained; None where no point of the study was run.

    Args:
        records: of all runs of one plan.
        root: the benchmark's folder.
    """
    notes, sections, sources = Notes(), [], []
    for study in studies_of(records):
        tested = len(next(iter(study.start.values())).per_case)
        fold = next(iter(study.start.values())).fold
        rows = [_row("nobody: finetune", study, study.start)]
        rows += [_row(f"nobody: {_title(name)}", study, runs) for name, runs in study.nobody.items()]
        marks: dict[tuple[str, float], str] = {}
        for r in study.failed:
            mark = notes.mark(f"{r.method}, seed {r.seed}: {r.reason}")
            marks[ASKED[r.stage]] = marks.get(ASKED[r.stage], " ") + mark
        for point in study.points:
            mark = marks.pop((point.asks, point.minutes_allowed), "")
            rows.append(_row(f"{ASKS[point.asks]}{mark}", study, point.runs, point))
        rows += [[f"{ASKS[asks]}{mark}", f"{minutes:g}", None, None, "0", None, "failed", None, None, None]
                 for (asks, minutes), mark in marks.items()]
        if study.everything:
            rows.append(_row(study.everything_title, study, study.everything))
        sections.append(Section(
            f"{study.dataset}, {study.labelled:.0%} labelled, fold {fold}, {tested} test cases", rows))
        every = [study.start, *study.nobody.values(), *(p.runs for p in study.points), study.everything]
        sources += dict.fromkeys(_source(run, root) for runs in every for run in runs.values())
    if not sections:
        return None
    return Table("Dice against an annotator's minutes", COLUMNS, sections, notes.texts,
                 [*_REMARKS, f"Computing: {_computing(records)}."], sources)


_REMARKS = (
    "Minutes are those of the virtual annotator on unlabelled images: it answers from the hidden truth with the errors "
    "and the seconds of people in published studies. The outlines of the labelled cases come before and are the same "
    "in every row.",
    "Dice and its difference to finetune: mean ± sample standard deviation over seeds, n test cases each. Share of the "
    "full-label gain: how far from finetune to the last row, of the means over the seeds that have both.",
    "Answers of fewer minutes are the first of more. Where a kind's next row is missing, every image was asked about "
    "already.",
    "Model kept: new, the judge alone with the network before, or the one before, as answers that were held back said.",
)


def _row(title: str, study: Study, runs: BySeed, point: Point | None = None) -> list[Entry]:
    dice, n = spread(dice_of(runs)), _tested(runs)
    gain = None if runs is study.start else study.gain(runs)
    share = None if runs is study.start else study.share(runs)
    said = None if share is None else f"{share:.0%}"
    if point is None:
        nothing = None if runs is study.everything else "0"
        return [title, None, nothing, nothing, str(len(runs)), n, dice, gain, said, None]
    asked = [run.asked for run in point.runs.values()]
    kept = [one.kept for one in asked if one.kept]
    counts = ", ".join(f"{name} {kept.count(name)}" for name in dict.fromkeys(kept))
    allowed = f"{point.minutes_allowed:g}" if point.minutes_allowed else "no limit"
    return [title, allowed, f"{point.minutes:.1f}", f"{fmean(one.answers for one in asked):.0f}", str(len(runs)), n,
            dice, gain, said, counts or None]


def _computing(records: Iterable[Record]) -> str:
    """What every point of the study could spend."""
    minutes = sorted({r.minutes_allowed or 0.0 for r in records if r.stage in ASKED and r.done})
    said = " or ".join(f"at most {value:g} minutes" if value else "as long as its plan says" for value in minutes)
    return f"each point was trained {said}, from the finetune of its seed"


def _tested(runs: BySeed) -> int:
    return len(next(iter(runs.values())).per_case)


def _title(name: str) -> str:
    variant = next((a.method for a in ABLATIONS if a.method.name == name), None)
    return full_name(name) if variant is None else variant.title.removeprefix("Nobody asked: ")


def _source(run: Record, root: Path) -> str:
    file = (run.summary or run.folder).relative_to(root).as_posix()
    return f"{run.dataset}, {run.labelled:.0%} labelled, {run.method}, seed {run.seed}: `{file}`"


# ---- figure ----------------------------------------------------------------------------------------------------------


def draw_effort(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write ``effort.png`` and ``effort.pdf``; returns the files, none where no point of the study was run.

    Args:
        records: of all runs of one plan.
        folder: to write to.
    """
    studies = studies_of(records)
    if not studies:
        return []
    figure = figure_effort(studies)
    files = [Path(folder) / f"effort.{ending}" for ending in ("png", "pdf")]
    for file in files:
        save_figure(figure, file)
    return files


def figure_effort(studies: Sequence[Study]) -> Figure:
    """The figure of :func:`draw_effort`, a panel a study."""
    handles = _handles(studies)
    width = len(studies) * (_LEFT + _WIDE + _RIGHT)
    columns = max(1, int(width / _LEGEND_COLUMN))
    lines = wrapped(_notes(studies), width)
    above_notes = notes_height(lines)
    bottom = above_notes + _LEGEND_ROW * -(-len(handles) // columns) + _BELOW_AXES
    height = _TOP + _HIGH + bottom
    figure = new_figure(width, height, dpi=200)
    for number, study in enumerate(studies):
        x = number * (_LEFT + _WIDE + _RIGHT) + _LEFT
        axes = figure.add_axes((x / width, bottom / height, _WIDE / width, _HIGH / height))
        draw_study(axes, study)
    figure.legend(handles=handles, loc="lower center", ncols=columns, bbox_to_anchor=(0.5, above_notes / height),
                  frameon=False, fontsize=SMALL, handlelength=3.4)
    write_notes(figure, lines)
    return figure


def draw_study(axes: Axes, study: Study) -> None:
    """One panel: horizontal lines, then the lines of points over them."""
    start = dice_of(study.start)
    axes.axhline(fmean(start), color=GREY, linewidth=0.9, gid=f"level {START}")
    for name, runs in _levels(study).items():
        axes.axhline(fmean(dice_of(runs)), color=_flat_colour(name), linestyle=_FLAT[name], linewidth=1.5,
                     gid=f"level {name}")
    for asks in dict.fromkeys(point.asks for point in study.points):
        points = [point for point in study.points if point.asks == asks]
        style = _STYLES[asks]
        minutes = [0.0, *(point.minutes for point in points)]
        dice = [start, *(point.dice for point in points)]
        least, mean, greatest = ([float(by(of)) for of in dice] for by in (np.min, np.mean, np.max))
        if max(map(len, dice)) > 1:
            axes.fill_between(minutes, least, greatest, color=style.colour, alpha=0.15, linewidth=0,
                              gid=f"seeds {asks}")
        axes.plot(minutes, mean, color=style.colour, marker=style.marker, markersize=5.5, linewidth=1.7,
                  gid=f"mean {asks}", markevery=range(1, len(minutes)))
    axes.plot([0], [fmean(start)], color="black", marker="o", markersize=5.5, linestyle="", gid=f"mean {START}",
              clip_on=False)
    axes.set_xscale("symlog", linthresh=_LINEAR_TO, linscale=0.5)
    axes.set_xlim(0, 1.15 * max(MINUTES_ASKED[-1], *(point.minutes for point in study.points)))
    axes.set_xticks([0, *MINUTES_ASKED], [f"{minutes}" for minutes in (0, *MINUTES_ASKED)])
    axes.minorticks_off()
    axes.set_xlabel("minutes of an annotator", fontsize=TEXT)
    axes.set_ylabel("Dice", fontsize=TEXT)
    axes.set_title(f"{panel_title(study.dataset)}, {100 * study.labelled:.4g}% labelled", fontsize=TITLE, pad=7)
    axes.tick_params(labelsize=SMALL)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _draw_shares(axes, study)


def _draw_shares(axes: Axes, study: Study) -> None:
    """The second axis: how much of the way from finetune to all labels."""
    seeds = study.start.keys() & study.everything.keys()
    if not seeds:
        return
    start, whole = (fmean(of[seed].metrics["Dice"] for seed in seeds) for of in (study.start, study.everything))
    if whole <= start:
        return
    second = axes.secondary_yaxis("right", functions=(
        lambda dice: 100 * (np.asarray(dice) - start) / (whole - start),
        lambda share: start + np.asarray(share) / 100 * (whole - start),
    ))
    second.set_ylabel("% of the gain of all labels", fontsize=TEXT)
    second.tick_params(labelsize=SMALL)
    second.set_gid("shares")


def _levels(study: Study) -> dict[str, BySeed]:
    return {**study.nobody, **({ALL_LABELS: study.everything} if study.everything else {})}


def _flat_colour(name: str) -> str:
    return {ALL_LABELS: "black", "own_order": GREY}.get(name) or style_of(name).colour


def _handles(studies: Sequence[Study]) -> list[Line2D]:
    from matplotlib.lines import Line2D

    asked = {point.asks for study in studies for point in study.points}
    handles = [Line2D([], [], color=_STYLES[asks].colour, marker=_STYLES[asks].marker, markersize=5.5, linewidth=1.7,
                      label=ASKS[asks]) for asks in ASKS if asks in asked]
    handles.append(Line2D([], [], color=GREY, marker="o", markerfacecolor="black", markeredgecolor="black",
                          markersize=5.5, linewidth=0.9, label="finetune, nobody asked"))
    levels = {name for study in studies for name in _levels(study)}
    for name in (*NOBODY, ALL_LABELS):
        if name in levels:
            titles = dict.fromkeys(study.everything_title for study in studies if study.everything)
            label = " or ".join(titles) if name == ALL_LABELS else f"{_title(name)}, nobody asked"
            handles.append(Line2D([], [], color=_flat_colour(name), linestyle=_FLAT[name], linewidth=1.5, label=label))
    return handles


def _notes(studies: Sequence[Study]) -> list[str]:
    counts = [len(point.runs) for study in studies for point in study.points]
    least, most = min(counts), max(counts)
    seeds = f"{most} seed{'s' * (most > 1)}" if least == most else f"{least} to {most} seeds"
    shaded = " Shaded: least to greatest seed." if most > 1 else ""
    return [f"Line: mean over {seeds}, at the minutes that the answers took.{shaded} A line ends early where every "
            "image was asked about. The labelled cases' outlines come before."]
