"""What the browser sends, checked before anything uses it."""

from __future__ import annotations

from datetime import datetime, timezone
from urllib.parse import parse_qs

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from samdpo.preferences.records import (
    MOST_CANDIDATES,
    Box,
    Candidate,
    ClientKey,
    ItemId,
    Judgement,
    Mode,
    Point,
    Rank,
    Rating,
    Seconds,
    Verdict,
)

_SHOWN = ("verdict", "ranks", "ratings", "best", "box", "point", "seconds")


class AnswerError(Exception):
    """An answer contradicts its mode or verdict, or does not fit its item."""


class ReceivedJudgement(BaseModel):
    """A judgement of one item; kinds and ranges as in the records."""

    model_config = ConfigDict(extra="forbid")

    item: ItemId
    mode: Mode
    verdict: Verdict
    ranks: list[Rank] | None = Field(default=None, max_length=MOST_CANDIDATES)
    ratings: list[Rating] | None = Field(default=None, max_length=MOST_CANDIDATES)
    best: Candidate | None = None
    box: Box | None = None
    point: Point | None = None
    seconds: Seconds
    client_key: ClientKey

    @model_validator(mode="after")
    def _ranks_have_no_gaps(self) -> ReceivedJudgement:
        if self.ranks is not None and set(self.ranks) != set(range(1, len(set(self.ranks)) + 1)):
            raise ValueError(f"ranks are {self.ranks}; expected 1, 2, … without gaps, equal ones for ties")
        return self

    def as_judgement(self, annotator: str, candidates: int) -> Judgement:
        """The judgement as it is stored.

        Args:
            annotator: who signed in; never what the browser says.
            candidates: how many the item has.

        Raises:
            AnswerError: the answer contradicts the mode or the verdict, or is about another number of candidates.
        """
        try:
            judgement = Judgement(
                item=self.item,
                annotator=annotator,
                mode=self.mode,
                ranks=None if self.ranks is None else tuple(self.ranks),
                ratings=None if self.ratings is None else tuple(self.ratings),
                best=self.best,
                verdict=self.verdict,
                seconds=self.seconds,
                client_key=self.client_key,
                time=datetime.now(timezone.utc),
                box=self.box,
                point=self.point,
            )
            judgement.check_candidates(candidates)
        except ValueError as error:
            raise AnswerError(str(error)) from error
        return judgement


class ReceivedPlace(BaseModel):
    """Where somebody says that the structure is: a box or a point, one of them."""

    model_config = ConfigDict(extra="forbid")

    box: Box | None = None
    point: Point | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> ReceivedPlace:
        if (self.box is None) == (self.point is None):
            raise ValueError("expected a box or a point, one of them")
        return self

    def check_inside(self, shape: tuple[int, int]) -> None:
        """Raise AnswerError unless it lies inside a slice of (height, width) pixels and has an area."""
        height, width = shape
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            if not (x0 < x1 <= width and y0 < y1 <= height):
                raise AnswerError(
                    f"box is {list(self.box)}; expected x0 < x1 and y0 < y1 inside {width} x {height} pixels."
                )
        if self.point is not None and not (self.point[0] < width and self.point[1] < height):
            raise AnswerError(f"point is {list(self.point)}; expected one inside {width} x {height} pixels.")


def shown_answer(judgement: Judgement) -> dict[str, object]:
    """What a person said, for the browser that shows it again."""
    return {name: getattr(judgement, name) for name in _SHOWN}


class ReceivedUndo(BaseModel):
    """``undo_key`` is new for each time somebody presses undo, and the same when that is sent again."""

    model_config = ConfigDict(extra="forbid")

    undo_key: ClientKey


class SignInForm(BaseModel):
    """The fields of the sign-in form."""

    name: str = Field(max_length=200)
    token: str = Field(max_length=200)

    @classmethod
    def read(cls, body: bytes) -> SignInForm | None:
        """Parse a form's body; None where it is no sign-in form."""
        try:
            fields = parse_qs(body.decode("utf-8"), max_num_fields=4, strict_parsing=True)
            return cls(name=fields["name"][0], token=fields["token"][0])
        except (ValueError, KeyError, ValidationError):  # ValueError covers wrong UTF-8
            return None
