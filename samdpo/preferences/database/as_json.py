"""Candidate sets, items and judgements as JSON objects; times are ISO 8601 with their zone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from samdpo.preferences.database.records import CandidateSet, Item, Judgement, item_id

Record = TypeVar("Record", CandidateSet, Item, Judgement)


def set_to_json(candidate_set: CandidateSet) -> dict[str, Any]:
    """A set as what ``json.dump`` takes."""
    return _to_json(candidate_set)


def set_from_json(content: Mapping[str, Any]) -> CandidateSet:
    """The set again; ValueError says which key is missing or wrong."""
    return _from_json(CandidateSet, content, times=("created",))


def item_to_json(item: Item) -> dict[str, Any]:
    """An item as what ``json.dump`` takes."""
    return _to_json(item)


def item_from_json(content: Mapping[str, Any]) -> Item:
    """The item again; ValueError says which key is missing or wrong."""
    item = _from_json(Item, content)
    expected = item_id(item.candidate_set, item.case, item.slice_index, item.structure)
    if item.id != expected:
        raise ValueError(f"the id of the item is {item.id}; that of its set, case, slice and structure is {expected}")
    return item


def judgement_to_json(judgement: Judgement) -> dict[str, Any]:
    """A judgement as what ``json.dump`` takes."""
    return _to_json(judgement)


def judgement_from_json(content: Mapping[str, Any]) -> Judgement:
    """The judgement again; ValueError says which key is missing or wrong."""
    values = {**content}
    for name in ("ranks", "ratings"):
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    return _from_json(Judgement, values, times=("time", "undone"))


def _to_json(record: Any) -> dict[str, Any]:
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}


def _from_json(cls: type[Record], content: Mapping[str, Any], times: tuple[str, ...] = ()) -> Record:
    fields = {field.name for field in dataclasses.fields(cls)}
    if content.keys() != fields:
        wrong = sorted(fields.symmetric_difference(content.keys()))
        raise ValueError(f"a {cls.__name__} has the keys {', '.join(sorted(fields))}; missing or not known: {wrong}")
    values = dict(content)
    for name in times:
        if values[name] is not None:
            values[name] = datetime.fromisoformat(values[name])
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(str(error)) from error
