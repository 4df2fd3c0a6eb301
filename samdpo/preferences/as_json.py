"""Candidate sets, items and judgements as JSON objects; times are ISO 8601 with their zone.

``set_from_json`` and ``judgement_from_json`` read what this program wrote; :func:`checked_from_json` reads what comes
from elsewhere.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from samdpo.preferences.records import CandidateSet, Item, Judgement, checked_record, item_id

Record = TypeVar("Record", CandidateSet, Item, Judgement)
_TIMES = {"created", "time", "undone"}
_TUPLES = {"ranks", "ratings", "box", "point"}
_ADDED = {"box", "point"}  # that older versions did not write


def set_to_json(candidate_set: CandidateSet) -> dict[str, Any]:
    """A set as what ``json.dump`` takes."""
    return _to_json(candidate_set)


def set_from_json(content: Mapping[str, Any]) -> CandidateSet:
    """The set again; ValueError says which key is missing or wrong."""
    return _from_json(CandidateSet, content)


def item_to_json(item: Item) -> dict[str, Any]:
    """An item as what ``json.dump`` takes."""
    return _to_json(item)


def judgement_to_json(judgement: Judgement) -> dict[str, Any]:
    """A judgement as what ``json.dump`` takes."""
    return _to_json(judgement)


def judgement_from_json(content: Mapping[str, Any]) -> Judgement:
    """The judgement again; ValueError says which key is missing or wrong."""
    return _from_json(Judgement, content)


def checked_from_json(cls: type[Record], content: Mapping[str, Any]) -> Record:
    """A record out of a file of anybody's; ValueError says which key is missing, unknown, or of a wrong kind or range.

    The id of an item must be the one that its set, case, slice and structure make.
    """
    record = checked_record(cls, _values(cls, content))
    if isinstance(record, Item):
        expected = item_id(record.candidate_set, record.case, record.slice_index, record.structure)
        if record.id != expected:
            raise ValueError(
                f"the id of the item is {record.id}; that of its set, case, slice and structure is {expected}"
            )
    return record


def _to_json(record: Any) -> dict[str, Any]:
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}


def _from_json(cls: type[Record], content: Mapping[str, Any]) -> Record:
    try:
        return cls(**_values(cls, content))
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(str(error)) from error


def _values(cls: type[Record], content: Mapping[str, Any]) -> dict[str, Any]:
    """Field -> value: JSON has neither times nor tuples."""
    fields = {field.name for field in dataclasses.fields(cls)}
    content = {**dict.fromkeys(_ADDED & fields), **content}
    if content.keys() != fields:
        wrong = str(sorted(fields.symmetric_difference(content.keys())))[:200]
        raise ValueError(f"a {cls.__name__} has the keys {', '.join(sorted(fields))}; missing or not known: {wrong}")
    values = {
        name: tuple(value) if name in _TUPLES and isinstance(value, list) else value for name, value in content.items()
    }
    for name in _TIMES & fields:
        if values[name] is not None:
            values[name] = _time(name, values[name])
    return values


def _time(name: str, text: object) -> datetime:
    try:
        return datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))  # type: ignore[call-overload]
    except (ValueError, TypeError):
        raise ValueError(f"{name} is {str(text)[:80]!r}; expected a time like 2024-05-01T12:30:15+00:00") from None
