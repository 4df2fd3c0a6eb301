"""A candidate set without pictures, and answers about it."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone

from samdpo.preferences.records import CandidateSet, Item, Judgement, item_id

SET = CandidateSet(
    id="a1b2", dataset="Dataset901_TinyXray", fold="0", stage="align", plans_name="samdpoPlans", model_hash="m" * 64,
    plan_hash="p" * 16, created=datetime(2024, 5, 1, 12, 30, 15, 123456, timezone.utc), folder="candidates/a1b2",
)


def make_items(count: int, candidate_set: str = SET.id) -> list[Item]:
    """Items whose candidates differ the less the later they come."""
    return [
        Item(item_id(candidate_set, f"case_{i:04d}", 0, "lung"), candidate_set, f"case_{i:04d}", 0, "lung",
             1 - i / count, 4)
        for i in range(count)
    ]


def judge(item: Item, annotator: str = "ann", **answer) -> Judgement:
    """Somebody ranks an item, or says what ``answer`` says."""
    values = {
        "mode": "ranking", "ranks": (1, 2, 2, 4), "ratings": None, "best": None, "verdict": "ranked", "seconds": 2.5,
        "client_key": str(uuid.uuid4()), "time": datetime.now(timezone.utc),
    }
    return Judgement(item=item.id, annotator=annotator, **{**values, **answer})


def skip(item: Item, annotator: str = "ann") -> Judgement:
    return judge(item, annotator, verdict="skipped", ranks=None)
