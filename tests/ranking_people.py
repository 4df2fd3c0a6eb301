"""People who rank stored candidates by a rule, into the dataset's database."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

import numpy as np
from trained_models import NUMBER

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.database.locate import default_database_url
from samdpo.preferences.records import Item, Judgement
from samdpo.preferences.stored_candidates import StoredCandidates


def larger_first(masks: np.ndarray) -> tuple[int, ...]:
    """Rank of each candidate for somebody who prefers larger masks."""
    sizes = masks.sum((1, 2))
    return tuple(int(1 + (sizes > size).sum()) for size in sizes)


def smaller_first(masks: np.ndarray) -> tuple[int, ...]:
    sizes = masks.sum((1, 2))
    return tuple(int(1 + (sizes < size).sum()) for size in sizes)


def judgement(item: Item, annotator: str = "ann", **answer) -> Judgement:
    values = {"mode": "ranking", "ranks": None, "ratings": None, "best": None, "verdict": "ranked", "seconds": 2.0}
    return Judgement(item=item.id, annotator=annotator, client_key=str(uuid.uuid4()),
                     time=datetime.now(timezone.utc), **{**values, **answer})


def keep(stored: StoredCandidates, judgements: Sequence[Judgement]) -> None:
    """Put a set and judgements of it into the database."""
    database = PreferenceDatabase.open(default_database_url(NUMBER))
    database.add_candidate_set(stored.candidate_set, stored.items)
    for one in judgements:
        database.record(one)
    database.close()


def people_rank(
    stored: StoredCandidates, items: Sequence[Item], person: Callable = larger_first, name: str = "ann",
) -> None:
    """Somebody ranks ``items``."""
    keep(stored, [judgement(item, name, ranks=person(stored.masks(item))) for item in items])


def without_label(stored: StoredCandidates) -> list[Item]:
    """The items of ``imagesUl/``."""
    return [item for item in stored.items if item.case.startswith("xray_ul")]


def simulated(stored: StoredCandidates) -> list[Item]:
    """The items of labelled images that the fold takes as unlabelled."""
    return [item for item in stored.items if not item.case.startswith("xray_ul")]
