"""How a method looks in every figure: its colour, its marker, its line, its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from samdpo.drawing import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from samdpo.lab.benchmark.methods import METHODS

TEXT, SMALL, TITLE = 9.0, 8.0, 11.0  # points
GREY = "0.35"


@dataclass(frozen=True)
class MethodStyle:
    """Colour and marker tell methods apart, both for themselves; the line tells what a method was given."""

    colour: str
    marker: str
    line: str | tuple = "-"


_BASE = {
    "align": MethodStyle(BLUE, "o"),
    "finetune": MethodStyle(ORANGE, "s"),
    "best_candidate": MethodStyle(PURPLE, "D"),
    "self_training": MethodStyle(GREEN, "^"),
    "mean_teacher": MethodStyle(SKY, "v"),
    "fixmatch": MethodStyle("#882255", "P"),
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
    known = [name for name in _BASE if method == name or method.startswith(f"{name}_")]
    base = _BASE[max(known, key=len)] if known else _SPARE
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
