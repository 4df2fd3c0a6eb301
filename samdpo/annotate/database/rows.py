"""Between the dataclasses and the rows of the tables."""

from __future__ import annotations

import dataclasses
from typing import Any

from samdpo.annotate.database.handing_out import overlap_draw
from samdpo.annotate.database.tables import CandidateSetRow, ItemRow, JudgementRow
from samdpo.preferences.records import CandidateSet, Item, Judgement


def values_of_set(candidate_set: CandidateSet) -> dict[str, Any]:
    """Column -> value of a new set."""
    return dataclasses.asdict(candidate_set)


def set_of_row(row: CandidateSetRow) -> CandidateSet:
    """The set of a row."""
    return CandidateSet(**_fields(CandidateSet, row))


def values_of_item(item: Item) -> dict[str, Any]:
    """Column -> value of a new item, which nobody has judged."""
    return {**dataclasses.asdict(item), "overlap_draw": overlap_draw(item.id), "judged": 0}


def item_of_row(row: ItemRow) -> Item:
    """The item of a row."""
    return Item(**_fields(Item, row))


def row_of_judgement(judgement: Judgement) -> JudgementRow:
    """The row of a new judgement."""
    values = _fields(Judgement, judgement)
    for name in ("ranks", "ratings"):
        values[name] = None if values[name] is None else list(values[name])
    return JudgementRow(**values)


def judgement_of_row(row: JudgementRow) -> Judgement:
    """The judgement of a row."""
    values = _fields(Judgement, row)
    for name in ("ranks", "ratings"):
        values[name] = None if values[name] is None else tuple(values[name])
    return Judgement(**values)


def _fields(cls: type, source: Any) -> dict[str, Any]:
    return {field.name: getattr(source, field.name) for field in dataclasses.fields(cls)}
