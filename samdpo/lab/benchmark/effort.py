"""What an annotator must say for a method: in minutes where a run counted them, else in bits.

Answers about places have the seconds that they took. What the virtual annotator says about pixels, in every epoch anew,
nobody could be paid for: it is counted in bits, so that a mask and a ranking can be compared.

An order of K candidates is one of K!, the best of them one of K, a rating one of its bins for each. A mask's outline
is counted as its chain code (Freeman 1961): 3 bits for each pixel of the boundary and, for each component, 16 bits
for where it starts, on the 256 x 256 grid that the network sees. Both are upper bounds of what is told, since not all
answers are equally likely.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.files import read_json
from samdpo.lab.benchmark.cells import Cell, tested_folders
from samdpo.lab.benchmark.methods import ASKED, covering

CHAIN_BITS = 3  # eight neighbours


@dataclass(frozen=True)
class Asked:
    """What a run asked about places.

    Attributes:
        asks: kind of the answers: ``mixture``, ``orders``, ``boxes`` or ``outlines``; "" where nobody was asked.
        minutes_allowed: of the annotator; 0 is no limit.
        minutes: that all answers took.
        answers: how many there were.
        items: that could have been answered.
        kept: which model was kept: ``new``, ``judge alone`` or ``before``.
    """

    asks: str
    minutes_allowed: float
    minutes: float
    answers: int
    items: int
    kept: str

    @property
    def everything(self) -> bool:
        """Whether nothing was left to ask."""
        return self.answers >= self.items

    def covers(self, asks: str, minutes: float) -> bool:
        """Whether ``minutes`` of another kind or amount of answers would have been these very answers."""
        if asks != self.asks:
            return False
        return minutes == self.minutes_allowed or (self.everything and minutes >= self.minutes)


def asked_about_places(fold_folder: Path) -> Asked | None:
    """What a finished run asked; None where it asked about pixels, or nothing.

    Args:
        fold_folder: with ``debug.json``, for what was to be asked, and ``model.json``, for what was.
    """
    files = fold_folder / "model.json", fold_folder / "debug.json"
    if not all(file.is_file() for file in files):
        return None
    model, settings = read_json(files[0]), read_json(files[1]).get("settings") or {}
    said, places = model.get("answers"), settings.get("places")
    if said is None or places is None:
        return None
    kind = (settings.get("annotator") or {}).get("kind")
    return Asked(
        "" if kind == "judge" else places["asks"], places["minutes"], said["seconds"] / 60,
        sum(said["counts"].values()), said["items"], (model.get("kept") or {}).get("name", ""),
    )


def is_covered(cell: Cell, dataset: str, plans_name: str, stage: str, fold: str) -> bool:
    """Whether another run of the cell got the very answers that a point of the effort study would get.

    Args:
        cell: to look in.
        dataset: ``DatasetXXX_Name``.
        plans_name: of the model folders.
        stage: of the point; any other stage is not covered.
        fold: number, or ``all``.
    """
    for other in covering(stage):
        for folder in tested_folders(cell, dataset, plans_name, other, fold):
            asked = asked_about_places(folder)
            if asked is not None and asked.covers(*ASKED[stage]):
                return True
    return False


def judgement_bits(settings: Mapping[str, Any], structures: Mapping[str, Any], n_hypotheses: int, epochs: int,
                   has_places: bool) -> float:
    """Bits that a whole training asks about one unlabelled image, all its structures together.

    The virtual annotator judges new candidates whenever an image is seen, once an epoch. People judge stored ones,
    once. Each round about places asks for the best of the hypotheses and the prompt's own box.

    Args:
        settings: of the stage, as ``debug.json`` has them.
        structures: of the plan, by name.
        n_hypotheses: of the plan's prompts.
        epochs: that were trained.
        has_places: whether prompts were refitted to places.
    """
    if settings.get("objective") not in ("preferences", "best_candidate"):
        return 0.0  # of places the run says how long it took: Asked
    annotator, count = settings["annotator"], settings["candidates"]["count"]
    scoring = "best" if settings["objective"] == "best_candidate" else annotator["scoring"]
    each = {
        "ranking": math.log2(math.factorial(count)),
        "best": math.log2(count),
        "rating": count * math.log2(len(annotator["rating_bins"]) + 1),
    }[scoring]
    bits = len(structures) * each * (epochs if annotator["kind"] == "virtual" else 1)
    if has_places:
        movable = sum(structure["components"] == 1 for structure in structures.values())
        bits += movable * settings["prompt_rounds"] * math.log2(n_hypotheses + 1)
    return bits


def outline_bits(label: np.ndarray) -> float:
    """Bits of the outlines of every structure in a slice.

    Args:
        label: (H, W) whole numbers; 0 and negative values are no structure.
    """
    from scipy import ndimage

    start = math.log2(label.size)
    bits = 0.0
    for value in np.unique(label[label > 0]):
        mask = label == value
        boundary = mask & ~ndimage.binary_erosion(mask)
        bits += CHAIN_BITS * int(boundary.sum()) + start * ndimage.label(mask, np.ones((3, 3)))[1]
    return bits
