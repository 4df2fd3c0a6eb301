"""What the preference database holds, as plain frozen dataclasses."""

from __future__ import annotations

import hashlib
import math
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from samdpo.errors import ConfigurationError

Mode = Literal["ranking", "rating", "best"]
Verdict = Literal["ranked", "none_acceptable", "skipped"]

HIGHEST_RATING = 4  # stars; 1 is the worst (paper Sec. 3.2)


@dataclass(frozen=True)
class CandidateSet:
    """Candidates that one model made for the unlabelled slices of one fold.

    Attributes:
        id: hash of the weights and of the settings that made the candidates.
        dataset: ``Dataset003_Liver``.
        fold: ``0`` … or ``all``.
        stage: configuration of the plan whose candidate settings were used.
        plans_name: name of the plan.
        model_hash: SHA-256 of the weights file of the model that made them.
        plan_hash: hash of everything of the plan that shapes candidates and prompts.
        created: when, with time zone.
        folder: where the candidates lie, see :class:`samdpo.preferences.stored_candidates.StoredCandidates`.
    """

    id: str
    dataset: str
    fold: str
    stage: str
    plans_name: str
    model_hash: str
    plan_hash: str
    created: datetime
    folder: str


@dataclass(frozen=True)
class Item:
    """One structure on one slice, of which somebody compares the candidates.

    Attributes:
        id: :func:`item_id`, the same in every database.
        candidate_set: id of its set.
        case: case identifier.
        slice_index: of the case, counted from 0.
        structure: name of the structure.
        position: the items of highest position are worked on first: 1 - mean pairwise IoU of the candidates.
        candidates: how many there are.
    """

    id: int
    candidate_set: str
    case: str
    slice_index: int
    structure: str
    position: float
    candidates: int


@dataclass(frozen=True)
class Judgement:
    """What one person said about the candidates of one item.

    Attributes:
        item: id of the item.
        annotator: the person's name.
        mode: what was asked for. Exactly the field of its mode is filled where the verdict is ``ranked``.
        ranks: mode ``ranking``: for each candidate, in candidate order, its rank from 1 (best); equal ranks are ties.
        ratings: mode ``rating``: for each candidate 1 (worst) to 4 stars.
        best: mode ``best``: index of the best candidate, from 0.
        verdict: ``none_acceptable`` and ``skipped`` say nothing about single candidates.
        seconds: from seeing the item to answering.
        client_key: UUID made by the browser; the same key is stored once, however often it is sent.
        time: when it was made, with time zone.
        undone: when its author took it back, or None.

    Raises:
        ValueError: the fields contradict each other; the text says how.
    """

    item: int
    annotator: str
    mode: Mode
    ranks: tuple[int, ...] | None
    ratings: tuple[int, ...] | None
    best: int | None
    verdict: Verdict
    seconds: float
    client_key: str
    time: datetime
    undone: datetime | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode is {self.mode!r}; expected one of {', '.join(get_args(Mode))}.")
        if self.verdict not in get_args(Verdict):
            raise ValueError(f"verdict is {self.verdict!r}; expected one of {', '.join(get_args(Verdict))}.")
        if not self.annotator.strip():
            raise ValueError("annotator is empty; expected a name.")
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise ValueError(f"seconds is {self.seconds}; expected a number from 0.")
        if self.time.tzinfo is None or (self.undone is not None and self.undone.tzinfo is None):
            raise ValueError("time has no time zone; expected one, such as UTC.")
        try:
            uuid.UUID(self.client_key)
        except ValueError:
            raise ValueError(f"client_key is {self.client_key!r}; expected a UUID.") from None
        self._check_answer()

    def _check_answer(self) -> None:
        answers = {"ranking": self.ranks, "rating": self.ratings, "best": self.best}
        given = [mode for mode, answer in answers.items() if answer is not None]
        expected = [self.mode] if self.verdict == "ranked" else []
        if given != expected:
            raise ValueError(
                f"A judgement of mode {self.mode!r} and verdict {self.verdict!r} holds the answer of "
                f"{' and '.join(expected) or 'no mode'}; found that of {' and '.join(given) or 'no mode'}."
            )
        if self.ranks is not None and not all(rank >= 1 for rank in self.ranks):
            raise ValueError(f"ranks are {list(self.ranks)}; expected whole numbers from 1, the best.")
        if self.ratings is not None and not all(1 <= rating <= HIGHEST_RATING for rating in self.ratings):
            raise ValueError(f"ratings are {list(self.ratings)}; expected 1 to {HIGHEST_RATING}.")

    def check_candidates(self, count: int) -> None:
        """Raise ValueError unless the answer is about ``count`` candidates."""
        answer = self.ranks if self.mode == "ranking" else self.ratings
        if answer is not None and len(answer) != count:
            raise ValueError(f"The item has {count} candidates; found an answer about {len(answer)}.")
        if self.best is not None and not 0 <= self.best < count:
            raise ValueError(f"best is {self.best}; expected a candidate from 0 to {count - 1}.")


@dataclass(frozen=True)
class Progress:
    """How far one person is.

    Attributes:
        judged: items this person has ranked, rated or found none acceptable of.
        left: items that can still be handed to this person.
        median_seconds: per judgement, None before the first.
        skipped: items this person has skipped.
    """

    judged: int
    left: int
    median_seconds: float | None
    skipped: int = 0


@dataclass(frozen=True)
class OverlapRule:
    """A ``share`` of the items, chosen by a hash and so always the same ones, goes to ``people`` people each.

    The other items need one judgement.
    """

    share: float = 0.0
    people: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigurationError(f"The overlap's share is {self.share}; expected 0 to 1, for example 0.1.")
        if self.people < 1:
            raise ConfigurationError(f"The overlap's people are {self.people}; expected at least 1.")

    def needed(self, item: Item) -> int:
        """How many people's judgements an item needs."""
        return self.people if overlap_draw(item.id) < self.share else 1


def item_id(candidate_set: str, case: str, slice_index: int, structure: str) -> int:
    """Id of an item: 53 bits of SHA-256 over what it is, so that every number in a browser holds it exactly."""
    text = "\n".join((candidate_set, case, str(slice_index), structure))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 11


def overlap_draw(item: int) -> float:
    """A number in [0, 1) that belongs to an item for good; below the share it is one that several people get."""
    digest = hashlib.sha256(f"overlap {item}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
