"""What people are asked and what they say, as frozen dataclasses whose fields say their kind and range.

A record that is made does not look at kinds and ranges, so that what an older version stored can be read.
:func:`checked` does; everything that comes in from elsewhere passes it: the page, an import, other programs. The page
checks what a browser sends with the same types.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model

from samdpo.names import name_problem

Mode = Literal["ranking", "rating", "best"]
Verdict = Literal["ranked", "accepted", "none_acceptable", "skipped"]

HIGHEST_RATING = 4  # stars; 1 is the worst (paper Sec. 3.2)
MOST_CANDIDATES = 8  # keys, colours and dashes that can be told apart
LARGEST_ID = 2**53 - 1  # of an item, see item_id
LARGEST_IMAGE = 2**15  # pixels along a side of a slice
LONGEST = 24 * 3600  # seconds on one item
LONGEST_NAME = 64  # characters of a person's name
EARLIEST = datetime(2000, 1, 1, tzinfo=timezone.utc)  # before there was anything to judge
_AHEAD = timedelta(days=1)  # that the clock of another machine may be ahead of ours
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\uff07", "'"))  # as phones and some keyboards type them
_HYPHENS = str.maketrans(dict.fromkeys("\u2010\u2011", "-"))
_IN_NAMES = " _.@'-\u00b7"  # beside letters, marks and digits; the last is the middle dot of Catalan
_JOINERS = "\u200c\u200d"  # that Persian and the scripts of India need within words
_VIRAMA = 9  # Unicode's combining class of the sign after which a joiner is written


def clean_name(text: str) -> str | None:
    """A person's name as it is stored: one form of each letter, single spaces; None where it is not a name.

    Letters of any script with their marks, digits, ``_ . @ ' -`` and spaces; 64 characters at most. A typographic
    apostrophe becomes ``'``, which another keyboard types for the same name.
    """
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in text.strip()):
        return None
    name = unicodedata.normalize("NFC", " ".join(text.split())).translate(_APOSTROPHES).translate(_HYPHENS)
    if not 0 < len(name) <= LONGEST_NAME or not (name[0].isalnum() or name[0] == "_"):
        return None
    fits = all(
        c.isalnum() or c in _IN_NAMES or unicodedata.category(c) in ("Mn", "Mc") or _joins(c, before)
        for c, before in zip(name[1:], name)
    )
    return name if fits else None


def _joins(character: str, before: str) -> bool:
    """Whether it is a joiner where scripts have one; anywhere else nobody could see that it is there."""
    return character in _JOINERS and (
        unicodedata.bidirectional(before) == "AL" or unicodedata.combining(before) == _VIRAMA
    )


def _person(text: str) -> str:
    name = clean_name(text)
    if name is None:
        raise ValueError(
            f"no name; expected letters and digits of any script, spaces and _ . @ ' -, at most {LONGEST_NAME} of them"
        )
    return name


def _key(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ValueError("no UUID") from None


def _plain_name(text: str) -> str:
    problem = name_problem(text)
    if problem:
        raise ValueError(f"it is {problem}; expected a plain name")
    return text


def _case_name(text: str) -> str:
    _plain_name(text.strip())  # a space at an end does no harm, and preprocessing takes it
    return text


def _printable(text: str) -> str:
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
        raise ValueError("it holds control characters")
    return text


def _moment(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError("no time zone; expected one, such as UTC")
    if not EARLIEST <= time <= datetime.now(timezone.utc) + _AHEAD:
        raise ValueError(f"{time.isoformat()}; expected a time from the year 2000 until now")
    return time


# Strict: neither a boolean nor a text is a number, and no number is a text.
Rank = Annotated[int, Field(strict=True, ge=1, le=MOST_CANDIDATES)]
Rating = Annotated[int, Field(strict=True, ge=1, le=HIGHEST_RATING)]
Candidate = Annotated[int, Field(strict=True, ge=0, lt=MOST_CANDIDATES)]
Coordinate = Annotated[float, Field(strict=True, ge=0, le=LARGEST_IMAGE, allow_inf_nan=False)]
Box = tuple[Coordinate, Coordinate, Coordinate, Coordinate]
Point = tuple[Coordinate, Coordinate]
ItemId = Annotated[int, Field(strict=True, ge=0, le=LARGEST_ID)]
Seconds = Annotated[float, Field(strict=True, ge=0, le=LONGEST, allow_inf_nan=False)]
ClientKey = Annotated[str, Field(strict=True, max_length=64), AfterValidator(_key)]
PersonName = Annotated[str, Field(strict=True, max_length=200), AfterValidator(_person)]
PlainName = Annotated[str, Field(strict=True), AfterValidator(_plain_name)]
CaseName = Annotated[str, Field(strict=True), AfterValidator(_case_name)]
Text = Annotated[str, Field(strict=True, max_length=200), AfterValidator(_printable)]
Moment = Annotated[datetime, Field(strict=True), AfterValidator(_moment)]
SetId = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9_-]{1,64}$")]


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

    id: SetId
    dataset: PlainName
    fold: Annotated[str, Field(strict=True, pattern=r"^(all|[0-9]{1,3})$")]
    stage: PlainName
    plans_name: PlainName
    model_hash: Text
    plan_hash: Text
    created: Moment
    folder: Annotated[str, Field(strict=True, max_length=4096), AfterValidator(_printable)]


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
        candidates: how many there are; 1 in a review of predictions.
    """

    id: ItemId
    candidate_set: SetId
    case: CaseName
    slice_index: Annotated[int, Field(strict=True, ge=0, lt=2**31)]
    structure: Annotated[str, Field(strict=True, min_length=1, max_length=200), AfterValidator(_printable)]
    position: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
    candidates: Annotated[int, Field(strict=True, ge=1, le=MOST_CANDIDATES)]


@dataclass(frozen=True)
class Judgement:
    """What one person said about the candidates of one item.

    Attributes:
        item: id of the item.
        annotator: the person's name.
        mode: what was asked for. Exactly the field of its mode is filled where the verdict is ``ranked``, and ``best``
            alone, in every mode, where it is ``accepted``.
        ranks: mode ``ranking``: for each candidate, in candidate order, its rank from 1 (best); equal ranks are ties.
        ratings: mode ``rating``: for each candidate 1 (worst) to 4 stars.
        best: mode ``best``: index of the best candidate, from 0; or the one that was accepted.
        verdict: ``ranked`` compares the candidates, ``accepted`` says that the candidate ``best`` is right as it is.
            ``none_acceptable`` and ``skipped`` say nothing about single candidates.
        seconds: from seeing the item to answering.
        client_key: UUID made by the browser; the same key is stored once, however often it is sent.
        time: when it was made, with time zone.
        undone: when its author took it back, or None.
        box: x0, y0, x1, y1 of the structure in pixels of the slice, x1 and y1 just outside, where none was acceptable
            and its author has said where it is; or None.
        point: x, y of a pixel on the structure, counted from 0, likewise; at most one of the two is given.

    Raises:
        ValueError: the fields contradict each other; the text says how.
    """

    item: ItemId
    annotator: PersonName
    mode: Mode
    ranks: tuple[Rank, ...] | None
    ratings: tuple[Rating, ...] | None
    best: Candidate | None
    verdict: Verdict
    seconds: Seconds
    client_key: ClientKey
    time: Moment
    undone: Moment | None = None
    box: Box | None = None
    point: Point | None = None

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
        expected = {"ranked": [self.mode], "accepted": ["best"]}.get(self.verdict, [])
        if given != expected:
            raise ValueError(
                f"A judgement of mode {self.mode!r} and verdict {self.verdict!r} holds the answer of "
                f"{' and '.join(expected) or 'no mode'}; found that of {' and '.join(given) or 'no mode'}."
            )
        if self.ranks is not None and not all(rank >= 1 for rank in self.ranks):
            raise ValueError(f"ranks are {list(self.ranks)}; expected whole numbers from 1, the best.")
        if self.ratings is not None and not all(1 <= rating <= HIGHEST_RATING for rating in self.ratings):
            raise ValueError(f"ratings are {list(self.ratings)}; expected 1 to {HIGHEST_RATING}.")
        self._check_where()

    def _check_where(self) -> None:
        if self.box is None and self.point is None:
            return
        if self.verdict != "none_acceptable":
            raise ValueError(
                f"A judgement of verdict {self.verdict!r} has a box or a point; only 'none_acceptable' says where the "
                "structure is."
            )
        if self.box is not None and self.point is not None:
            raise ValueError("A judgement has both a box and a point; expected at most one of them.")
        given = self.box if self.box is not None else self.point
        name, length = ("box", 4) if self.box is not None else ("point", 2)
        if given is None or len(given) != length or not all(0 <= value <= LARGEST_IMAGE for value in given):
            raise ValueError(f"{name} is {given}; expected {length} numbers from 0 to {LARGEST_IMAGE}.")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError(f"box is {list(self.box)}; expected x0, y0, x1, y1 with x0 < x1 and y0 < y1.")

    def check_candidates(self, count: int) -> None:
        """Raise ValueError unless the answer is about ``count`` candidates."""
        answer = self.ranks if self.mode == "ranking" else self.ratings
        if answer is not None and len(answer) != count:
            raise ValueError(f"The item {self.item} has {count} candidates; found an answer about {len(answer)}.")
        if self.best is not None and not 0 <= self.best < count:
            raise ValueError(f"best is {self.best}; expected a candidate from 0 to {count - 1}.")

    def check_where(self, height: int, width: int) -> None:
        """Raise ValueError unless its box or point, where it has one, lies inside a slice of this many pixels."""
        if self.box is not None and (self.box[2] > width or self.box[3] > height):
            raise ValueError(f"box is {list(self.box)}; the slice has {width} x {height} pixels (width x height).")
        if self.point is not None and (self.point[0] >= width or self.point[1] >= height):
            raise ValueError(f"point is {list(self.point)}; the slice has {width} x {height} pixels (width x height).")


Record = TypeVar("Record", CandidateSet, Item, Judgement)


def checked(record: Record) -> Record:
    """The record with the kind and range of every field checked, names and keys brought to their one form.

    Raises:
        ValueError: the text names the field.
    """
    return checked_record(type(record), vars(record))


def checked_record(cls: type[Record], values: Mapping[str, Any]) -> Record:
    """A record of these values, checked as by :func:`checked`."""
    try:
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        found = cls(**dict(_fields_of(cls).model_validate(values)))
    except ValidationError as error:
        raise ValueError(first_problem(error.errors())) from error
    if isinstance(found, Judgement):
        if found.ranks is not None and not is_ranking(found.ranks):
            raise ValueError(f"ranks are {list(found.ranks)}; expected 1, 2, … without gaps, equal ones for ties")
        if found.undone is not None and found.undone < found.time:
            raise ValueError(f"undone is {found.undone.isoformat()}, before its time {found.time.isoformat()}")
    return found


def first_problem(errors: Sequence[Any]) -> str:
    """pydantic's first error as ``field: what is wrong``: the place and the rule, never the value that was sent."""
    where = ".".join(str(part) for part in errors[0]["loc"])
    return f"{where}: {errors[0]['msg'].removeprefix('Value error, ')}"


def is_ranking(ranks: Sequence[int]) -> bool:
    """Whether ranks count from 1 without gaps; a tie of two may take one rank (1 2 2 3) or two of them (1 2 2 4)."""
    dense = sorted(set(ranks)) == list(range(1, len(set(ranks)) + 1))
    return dense or all(rank == 1 + sum(other < rank for other in ranks) for rank in ranks)


@lru_cache
def _fields_of(cls: type) -> type[BaseModel]:
    """The fields of a record as a model that checks them, by the types that the record itself names."""
    fields = {name: (kind, ...) for name, kind in get_type_hints(cls, include_extras=True).items()}
    return create_model(cls.__name__, __config__=ConfigDict(strict=True, extra="forbid"), **fields)  # type: ignore[call-overload]


def item_id(candidate_set: str, case: str, slice_index: int, structure: str) -> int:
    """Id of an item: 53 bits of SHA-256 over what it is, so that every number in a browser holds it exactly."""
    text = "\n".join((candidate_set, case, str(slice_index), structure))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 11
