"""Structures that an image may lack: false alarms, structures missed, and what another presence threshold would do.

A picture's report holds the score by which a structure counted as present (:func:`samdpo.prompting.calibration.
presence_score`). Over many pictures these scores say for every threshold how many structures would be looked for where
there are any, and how many where there are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.drawing import BLUE, VERMILION, new_figure, save_figure
from samdpo.errors import DatasetError
from samdpo.names import json_beside
from samdpo.schema import read_checked

_POINTS = 200  # of a curve
_REMEDY = "Predict the case again, or evaluate without --presence_figure."


@dataclass(frozen=True)
class PresenceScore:
    """What the report of a picture says of a structure.

    Attributes:
        score: presence score, in [0, 1].
        threshold: from which it counted as present; more than 1 where no score is enough.
    """

    score: float
    threshold: float


@dataclass(frozen=True)
class PresencePoint:
    """What a threshold does.

    Attributes:
        threshold: score from which a structure counts as present.
        found: of 100 images that show it, so many count as showing it.
        false_alarms: of 100 images without it, so many do.
    """

    threshold: float
    found: float
    false_alarms: float


@dataclass(frozen=True)
class _StructureReport:
    presence: list[float] | None = None
    presence_threshold: float = 0.0


@dataclass(frozen=True)
class _Report:
    """The keys of a case's report that are read."""

    structures: dict[str, _StructureReport]


def false_alarms(cases: Sequence[Mapping[str, Any]], label: str) -> dict[str, float]:
    """How often a structure was found where there is none, and missed where there is one; a volume counts as one image.

    Args:
        cases: entries ``metric_per_case`` of a summary.
        label: of the structure, as the entries have it.

    Returns:
        ``cases_with``, ``missed`` of them, ``cases_without``, ``false_alarms`` of them, and the latter of a hundred,
        NaN where every case shows the structure.
    """
    counts = [(case["metrics"][label]["n_ref"], case["metrics"][label]["n_pred"]) for case in cases]
    without = [found > 0 for there, found in counts if there == 0]
    missed = [found == 0 for there, found in counts if there > 0]
    return {
        "cases_with": len(missed), "missed": sum(missed), "cases_without": len(without), "false_alarms": sum(without),
        "false_alarms_per_hundred": 100 * sum(without) / len(without) if without else float("nan"),
    }


def scores_of(prediction: Path) -> dict[str, PresenceScore]:
    """Structure -> its score, from the report beside a predicted picture; {} where there is none, or of a volume.

    Raises:
        DatasetError: the report is damaged.
    """
    file = json_beside(prediction)
    if not file.is_file():
        return {}
    found = {}
    for name, entry in read_checked(_Report, file, error=DatasetError, remedy=_REMEDY)["structures"].items():
        if len(entry.get("presence") or ()) == 1:
            found[name] = PresenceScore(entry["presence"][0], entry.get("presence_threshold", 0.0))
    return found


def presence_curve(scores: Sequence[float], there: Sequence[bool]) -> list[PresencePoint]:
    """What each threshold does, ascending: the scores, at most 200 of them, and one that is too high for all.

    Args:
        scores: presence score of each image.
        there: whether it shows the structure; some do, and some do not.
    """
    values, shown = np.asarray(scores, float), np.asarray(there, bool)
    ordered = np.unique(values)
    if len(ordered) > _POINTS:
        ordered = ordered[np.linspace(0, len(ordered) - 1, _POINTS).round().astype(int)]
    thresholds = [*ordered, np.nextafter(ordered[-1], 2)]
    return [
        PresencePoint(float(t), 100 * float((values[shown] >= t).mean()), 100 * float((values[~shown] >= t).mean()))
        for t in thresholds
    ]


def draw_presence(
    cases: Sequence[Mapping[str, Any]], structures: Mapping[str, int], path: Path
) -> dict[str, list[PresencePoint]]:
    """Draw, for each structure that some pictures show and some do not, what the presence threshold trades.

    Left both shares against the threshold, right one against the other. A dashed line and a dot: the threshold that was
    used; a cross: the masks, which may be empty where a structure was looked for.

    Args:
        cases: entries ``metric_per_case`` of a summary, whose reports lie beside their predictions.
        structures: name -> label.
        path: of the figure; its ending chooses the format.

    Returns:
        name -> the points drawn.

    Raises:
        DatasetError: no structure has both kinds of pictures with scores, or a report is damaged.
    """
    reports = [scores_of(Path(case["prediction_file"])) for case in cases]
    curves, used, masks = {}, {}, {}
    for name, label in structures.items():
        known = [(report[name], case) for report, case in zip(reports, cases) if name in report]
        there = [case["metrics"][str(label)]["n_ref"] > 0 for _, case in known]
        if any(there) and not all(there):
            curves[name] = presence_curve([one.score for one, _ in known], there)
            used[name] = _at([one.score - one.threshold for one, _ in known], there, 0.0), float(
                np.mean([one.threshold for one, _ in known]))
            masks[name] = _at([case["metrics"][str(label)]["n_pred"] for _, case in known], there, 1)
    if not curves:
        raise DatasetError(
            f"{path} is not drawn: no structure is in some of the pictures and missing in others, with a presence "
            "score in the reports beside the predictions. samdpo_predict writes scores of structures that may be "
            "absent (structures.NAME.may_be_absent in the plan); of volumes none are drawn."
        )
    _draw(curves, used, masks, path)
    return curves


def refuse_as_prediction(path: Path, folders: Sequence[Path], ending: str) -> None:
    """Raise DatasetError where a figure would lie among label maps and be taken for one."""
    if path.name.endswith(ending) and path.resolve().parent in [folder.resolve() for folder in folders]:
        raise DatasetError(f"--presence_figure {path} would be taken for a label map there. Name another folder.")


def _at(scores: Sequence[float], there: Sequence[bool], threshold: float) -> tuple[float, float]:
    """(false alarms, found) of a hundred where the score is at least ``threshold``."""
    values, shown = np.asarray(scores), np.asarray(there)
    return 100 * float((values[~shown] >= threshold).mean()), 100 * float((values[shown] >= threshold).mean())


def _draw(
    curves: Mapping[str, Sequence[PresencePoint]], used: Mapping[str, tuple[tuple[float, float], float]],
    masks: Mapping[str, tuple[float, float]], path: Path,
) -> None:
    figure = new_figure(9.5, 3.9 * len(curves), dpi=110)
    panels = figure.subplots(len(curves), 2, squeeze=False)
    for (left, right), (name, points) in zip(panels, curves.items()):
        at, found, alarms = np.array([(p.threshold, p.found, p.false_alarms) for p in points]).T
        at = np.concatenate([[0], np.minimum(at, 1), [1]])
        for values, colour, what in ((found, BLUE, "found, of 100 that show it"),
                                     (alarms, VERMILION, "false alarms, of 100 without it")):
            left.step(at, [100, *values, values[-1]], where="pre", color=colour, linewidth=2, label=what)
        right.plot(alarms, found, color="0.35", linewidth=1.6)
        dot, threshold = used[name]
        if threshold <= 1:
            left.axvline(threshold, color="black", linestyle="--", linewidth=1.2, label=f"used: {threshold:.3f}")
        right.plot(*dot, "o", color="black", markersize=8, label="threshold that was used")
        right.plot(*masks[name], "x", color=VERMILION, markersize=9, markeredgewidth=2.5, label="masks")
        left.set(xlabel="presence threshold", ylabel="of 100 images", xlim=(0, 1), ylim=(-3, 103))
        right.set(xlabel="false alarms, of 100 images without it", ylabel="found, of 100 that show it", xlim=(-3, 103),
                  ylim=(-3, 103))
        left.set_title(name, fontsize=12, loc="left", fontweight="bold", parse_math=False)
        left.legend(loc="upper right", fontsize=9)
        right.legend(loc="lower right", fontsize=9)
        for axes in (left, right):
            axes.grid(color="0.9")
            axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save_figure(figure, path)
