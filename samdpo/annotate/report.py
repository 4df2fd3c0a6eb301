"""What a database holds in numbers: who judged how much, how fast, and how far they agree."""

from __future__ import annotations

import logging
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.errors import SamdpoError
from samdpo.paths import preprocessed_folder
from samdpo.preferences.agreement import (
    MOST_COMPARED,
    kendall_tau,
    krippendorff_alpha,
    mean_tau,
    pairwise_tau,
    scores_of,
)
from samdpo.preferences.annotators import iou
from samdpo.preferences.records import CandidateSet, Item, Judgement, Verdict
from samdpo.preferences.stored_candidates import StoredCandidates
from samdpo.preprocessing.store import SliceStore

log = logging.getLogger(__name__)


def report(database: PreferenceDatabase, dataset: str) -> list[dict[str, Any]]:
    """One report a candidate set of a dataset, oldest first; JSON-able, None where there is nothing to measure.

    Each has ``candidate_set``, ``fold``, ``stage``, ``created``, ``items``, ``judged_items``, per person
    ``annotators`` (counts of the verdicts, how many of those without an acceptable one were ``placed`` by a box or a
    point, ``median_seconds``, and against the virtual annotator, where there is a
    truth, ``virtual_tau``, ``virtual_best`` and ``virtual_items``), ``pairs`` of people with their tau, ``tau`` over
    all pairs and items, and ``alpha``.
    """
    sets = [one for one in database.candidate_sets() if one.dataset == dataset]
    return [report_of_set(one, database.items(one.id), database.judgements(one.id)) for one in sets]


def report_of_set(one: CandidateSet, items: Sequence[Item], judgements: Sequence[Judgement]) -> dict[str, Any]:
    """The report of one set; see :func:`report`."""
    counts = {item.id: item.candidates for item in items}
    given = scores_of(judgements, counts)
    scored = {item for item, _ in given}
    virtual = virtual_scores(one, [item for item in items if item.id in scored])
    tau, compared = mean_tau(given)
    own_judgements: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        own_judgements.setdefault(judgement.annotator, []).append(judgement)
    own_scores: dict[str, dict[int, list[float]]] = {name: {} for name in own_judgements}
    for (item, name), scores in given.items():
        own_scores[name][item] = scores
    if len(own_judgements) > MOST_COMPARED:
        log.warning("%d people have judged; of the %d who judged most each two are compared, of all the rest together.",
                    len(own_judgements), MOST_COMPARED)
    return {
        "candidate_set": one.id, "fold": one.fold, "stage": one.stage, "created": one.created.isoformat(),
        "items": len(items), "judged_items": len({j.item for j in judgements if j.verdict != "skipped"}),
        "annotators": {
            name: {**_counts(own_judgements[name]), **_against(own_scores[name], virtual)}
            for name in sorted(own_judgements)
        },
        "pairs": [
            {"annotators": list(pair), "tau": value, "items": count}
            for pair, (value, count) in pairwise_tau(given).items()
        ],
        "tau": _number(tau), "compared": compared, "alpha": _number(krippendorff_alpha(given)),
    }


def virtual_scores(one: CandidateSet, items: Sequence[Item]) -> dict[int, list[float]]:
    """What the virtual annotator says: the overlap (IoU) of each candidate with the hidden truth, where there is one.

    Empty, with a warning, where the candidates or the preprocessed slices are gone.
    """
    found: dict[int, list[float]] = {}
    try:
        stored = StoredCandidates.find(one)
        slices = SliceStore(preprocessed_folder(one.dataset) / stored.description["data_identifier"])
        for item in items:
            if slices.has_label(item.case):
                label = np.asarray(slices.label(item.case, item.slice_index))
                truth = torch.from_numpy(label == stored.description["labels"][item.structure])
                found[item.id] = iou(torch.from_numpy(stored.masks(item))[None], truth[None])[0].tolist()
    except SamdpoError as error:
        log.warning("People are not compared with the virtual annotator: %s", error)
    return found


def write_report(reports: Sequence[dict[str, Any]], file: Path) -> None:
    """Write reports as JSON."""
    from samdpo.files import write_json

    write_json(file, list(reports))


def _counts(own: Sequence[Judgement]) -> dict[str, Any]:
    verdicts = Counter(judgement.verdict for judgement in own)
    seconds = [judgement.seconds for judgement in own if judgement.verdict != "skipped"]
    return {
        **{verdict: verdicts[verdict] for verdict in get_args(Verdict)},
        "placed": sum(judgement.box is not None or judgement.point is not None for judgement in own),
        "median_seconds": statistics.median(seconds) if seconds else None,
    }


def _against(own: dict[int, list[float]], virtual: dict[int, list[float]]) -> dict[str, Any]:
    """Mean tau with the virtual annotator, and the share of items on which a best candidate is the same."""
    shared = sorted(own.keys() & virtual.keys())
    taus = [tau for item in shared if not math.isnan(tau := kendall_tau(own[item], virtual[item]))]
    same = [bool(_best(own[item]) & _best(virtual[item])) for item in shared]
    return {
        "virtual_tau": float(np.mean(taus)) if taus else None,
        "virtual_best": float(np.mean(same)) if same else None,
        "virtual_items": len(shared),
    }


def _best(of_candidates: Sequence[float]) -> set[int]:
    return {index for index, score in enumerate(of_candidates) if score == max(of_candidates)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
