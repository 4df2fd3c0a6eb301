"""A database's sets, items and judgements as a file of JSON lines, and back.

A line is ``{"kind": "candidate_set" | "item" | "judgement", …}``: the sets, then their items, then the judgements in
the order they came, those that were undone among them. Before them a line ``{"kind": "export", "version": 2}``, which
the files of older versions lack. What is imported is anybody's: every field passes the checks of what the page
receives, and the file is added in one transaction or not at all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.database.errors import ClientKeyError, ContradictionError, UnknownItemError
from samdpo.errors import ConfigurationError, SamdpoError
from samdpo.files import parse_json, unreadable, write_text
from samdpo.preferences import as_json
from samdpo.preferences.records import CandidateSet, Item, Judgement
from samdpo.preferences.stored_candidates import StoredCandidates

log = logging.getLogger(__name__)

VERSION = 2  # 1, without a line that says so, knew neither accepted candidates nor boxes and points
_NAMED = 20  # of the judgements that are left out
_KINDS = {"candidate_set": CandidateSet, "item": Item, "judgement": Judgement}


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
    lines: list[dict[str, object]] = [{"kind": "export", "version": VERSION}]
    lines += [{"kind": "candidate_set", **as_json.set_to_json(one)} for one in sets]
    lines += [{"kind": "item", **as_json.item_to_json(item)} for one in sets for item in database.items(one.id)]
    lines += [{"kind": "judgement", **as_json.judgement_to_json(judgement)} for judgement in judgements]
    write_text(file, "".join(json.dumps(line) + "\n" for line in lines))
    return len(judgements)


def import_jsonl(database: PreferenceDatabase, file: Path, dataset: str | None = None) -> Imported:
    """Add what ``file`` holds, in one transaction; doing it again changes nothing.

    Args:
        database: to add to.
        file: of JSON lines.
        dataset: full name of the dataset it should be about; None takes any.

    Raises:
        ConfigurationError: a line is broken, about another dataset, or contradicts another line or the database;
            nothing of the file is added.
    """
    contents = read_jsonl(file)
    _check_where(contents, file)
    others = sorted({one.dataset for one in contents.sets} - {dataset})
    if dataset is not None and others:
        raise ConfigurationError(
            f"{file} has judgements of {', '.join(others)}, expected {dataset}. Nothing is imported."
        )
    try:
        outcomes = database.add_all(contents.sets, contents.items, contents.judgements)
    except (ContradictionError, ClientKeyError, UnknownItemError) as error:
        raise ConfigurationError(f"{file}: {error} Nothing is imported.") from error
    refused = [one for one, outcome in zip(contents.judgements, outcomes, strict=True) if outcome == "refused"]
    for judgement in refused[:_NAMED]:
        log.warning("Left out: %r has judged item %d already.", judgement.annotator, judgement.item)
    if len(refused) > _NAMED:
        log.warning("Left out: %d more that their authors have judged already.", len(refused) - _NAMED)
    return Imported(*(outcomes.count(outcome) for outcome in ("new", "known", "refused")))


def read_jsonl(file: Path) -> Contents:
    """Parse and check a file of JSON lines.

    Raises:
        ConfigurationError: the file is missing or a line is broken; the text names the line.
    """
    contents = Contents()
    places: dict[type, list[Any]] = {CandidateSet: contents.sets, Item: contents.items, Judgement: contents.judgements}
    for number, line in _lines(file):
        try:
            content = parse_json(line, "it")
            kind = content.pop("kind") if isinstance(content, dict) and "kind" in content else None
            if kind == "export":
                _check_version(content)
                continue
            if not isinstance(kind, str) or kind not in _KINDS:
                raise ValueError(f"the kind {str(kind)[:80]!r} is none of {', '.join(_KINDS)}")
            places[_KINDS[kind]].append(as_json.checked_from_json(_KINDS[kind], content))
        except (ValueError, SamdpoError) as error:
            raise ConfigurationError(
                f"Line {number} of {file} is not what samdpo_preferences export writes: {error}. Nothing is imported."
            ) from error
    _check_whole(contents, file)
    return contents


def _check_version(content: dict[str, Any]) -> None:
    if set(content) != {"version"}:
        raise ValueError(f"a line of the kind 'export' has a version alone; this one has {str(sorted(content))[:80]}")
    version = content["version"]
    if type(version) is not int or version < 1:
        raise ValueError(f"the version of the export is {str(version)[:80]!r}; expected a whole number from 1")
    if version > VERSION:
        raise ValueError(
            f"the export is of version {str(version)[:80]}, and this samdpo reads up to {VERSION}; type: "
            "pip install --upgrade samdpo"
        )


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} cannot be read as text ({error}). Nothing is imported.") from error
    except OSError as error:
        raise ConfigurationError(f"{unreadable(file, error)} Nothing is imported.") from error
    # Not splitlines, which also ends a line at characters that JSON may hold within a text.
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _check_whole(contents: Contents, file: Path) -> None:
    sets, items = {one.id for one in contents.sets}, {item.id: item for item in contents.items}
    for item in contents.items:
        if item.candidate_set not in sets:
            raise ConfigurationError(
                f"{file} has items of the set {item.candidate_set}, but not the set itself. Nothing is imported."
            )
    for judgement in contents.judgements:
        if judgement.item not in items:
            raise ConfigurationError(
                f"{file} has a judgement of the item {judgement.item}, but not the item itself. Nothing is imported."
            )
        try:
            judgement.check_candidates(items[judgement.item].candidates)
        except ValueError as error:
            raise ConfigurationError(
                f"{file}, judgement {judgement.client_key}: {error} Nothing is imported."
            ) from error


def _check_where(contents: Contents, file: Path) -> None:
    """Boxes and points lie inside their slices; not known where the candidates are not on this machine."""
    items = {item.id: item for item in contents.items}
    placed: dict[str, list[Judgement]] = {}
    for judgement in contents.judgements:
        if judgement.box is not None or judgement.point is not None:
            placed.setdefault(items[judgement.item].candidate_set, []).append(judgement)
    for one in contents.sets:
        if one.id in placed:
            try:
                stored = StoredCandidates.find(one)
                shapes = {j.client_key: stored.masks(items[j.item]).shape[-2:] for j in placed[one.id]}
            except (SamdpoError, KeyError):
                continue
            for judgement in placed[one.id]:
                try:
                    judgement.check_where(*shapes[judgement.client_key])
                except ValueError as error:
                    raise ConfigurationError(
                        f"{file}, judgement {judgement.client_key}: {error} Nothing is imported."
                    ) from error
