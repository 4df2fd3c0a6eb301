"""A database's sets, items and judgements as a file of JSON lines, and back.

A line is ``{"kind": "candidate_set" | "item" | "judgement", …}``: the sets, then their items, then the judgements in
the order they came, those that were undone among them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from samdpo.errors import ConfigurationError
from samdpo.files import write_text
from samdpo.preferences.database import as_json
from samdpo.preferences.database.database import PreferenceDatabase
from samdpo.preferences.database.errors import AlreadyJudgedError
from samdpo.preferences.database.records import CandidateSet, Item, Judgement

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contents:
    """What a file of JSON lines holds."""

    sets: list[CandidateSet] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)


@dataclass(frozen=True)
class Imported:
    """What an import did: judgements that are ``new``, ``known`` by their client key, or ``refused`` because their
    author has judged the same item here under another key."""

    new: int
    known: int
    refused: int


def export_jsonl(database: PreferenceDatabase, file: Path, sets: Sequence[CandidateSet]) -> int:
    """Write ``sets`` with their items and judgements to ``file``, atomically; returns the number of judgements."""
    judgements = [j for one in sets for j in database.judgements(one.id, undone=True)]
    lines: list[dict[str, object]] = [{"kind": "candidate_set", **as_json.set_to_json(one)} for one in sets]
    lines += [{"kind": "item", **as_json.item_to_json(item)} for one in sets for item in database.items(one.id)]
    lines += [{"kind": "judgement", **as_json.judgement_to_json(judgement)} for judgement in judgements]
    write_text(file, "".join(json.dumps(line) + "\n" for line in lines))
    return len(judgements)


def import_jsonl(database: PreferenceDatabase, file: Path, dataset: str | None = None) -> Imported:
    """Add what ``file`` holds; doing it again changes nothing.

    Args:
        database: to add to.
        file: of JSON lines.
        dataset: full name of the dataset it should be about; None takes any.

    Raises:
        ConfigurationError: a line is broken or about another dataset; nothing of the file is added.
    """
    contents = read_jsonl(file)
    others = sorted({one.dataset for one in contents.sets} - {dataset})
    if dataset is not None and others:
        raise ConfigurationError(
            f"{file} has judgements of {', '.join(others)}, expected {dataset}. Nothing is imported."
        )
    for one in contents.sets:
        database.add_candidate_set(one, [item for item in contents.items if item.candidate_set == one.id])
    counts = {"new": 0, "known": 0, "refused": 0}
    for judgement in contents.judgements:
        try:
            counts["new" if database.record(judgement) else "known"] += 1
        except AlreadyJudgedError as error:
            log.warning("Left out: %s", error)
            counts["refused"] += 1
    return Imported(**counts)


def read_jsonl(file: Path) -> Contents:
    """Parse and check a file of JSON lines.

    Raises:
        ConfigurationError: the file is missing or a line is broken; the text names the line.
    """
    contents = Contents()
    for number, line in _lines(file):
        try:
            content = json.loads(line)
            kind = content.pop("kind")
            if kind == "candidate_set":
                contents.sets.append(as_json.set_from_json(content))
            elif kind == "item":
                contents.items.append(as_json.item_from_json(content))
            elif kind == "judgement":
                contents.judgements.append(as_json.judgement_from_json(content))
            else:
                raise ValueError(f"the kind {kind!r} is none of candidate_set, item, judgement")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ConfigurationError(
                f"Line {number} of {file} is not what samdpo_preferences export writes: {reason}. Nothing is imported."
            ) from error
    _check_whole(contents, file)
    return contents


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} cannot be read as text ({error}).") from error
    return ((number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip())


def _check_whole(contents: Contents, file: Path) -> None:
    sets, items = {one.id for one in contents.sets}, {item.id: item for item in contents.items}
    for item in contents.items:
        if item.candidate_set not in sets:
            raise ConfigurationError(f"{file} has items of the set {item.candidate_set}, but not the set itself.")
    for judgement in contents.judgements:
        if judgement.item not in items:
            raise ConfigurationError(f"{file} has a judgement of the item {judgement.item}, but not the item itself.")
        try:
            judgement.check_candidates(items[judgement.item].candidates)
        except ValueError as error:
            raise ConfigurationError(f"{file}, judgement {judgement.client_key}: {error}") from error
