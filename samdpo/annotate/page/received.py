"""What the browser sends, checked before anything uses it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from urllib.parse import parse_qs

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from samdpo.annotate.page.item_views import to_display, to_stored
from samdpo.preferences.records import (
    MOST_CANDIDATES,
    Candidate,
    ClientKey,
    ItemId,
    Judgement,
    Mode,
    Rank,
    Rating,
    Seconds,
    Verdict,
)


class AnswerError(Exception):
    """An answer contradicts its mode or verdict, or does not fit its item."""


class ReceivedJudgement(BaseModel):
    """A judgement about candidates in the order in which this person sees them; kinds and ranges as in the records."""

    model_config = ConfigDict(extra="forbid")

    item: ItemId
    mode: Mode
    verdict: Verdict
    ranks: list[Rank] | None = Field(default=None, max_length=MOST_CANDIDATES)
    ratings: list[Rating] | None = Field(default=None, max_length=MOST_CANDIDATES)
    best: Candidate | None = None
    seconds: Seconds
    client_key: ClientKey

    @model_validator(mode="after")
    def _ranks_have_no_gaps(self) -> ReceivedJudgement:
        if self.ranks is not None and set(self.ranks) != set(range(1, len(set(self.ranks)) + 1)):
            raise ValueError(f"ranks are {self.ranks}; expected 1, 2, … without gaps, equal ones for ties")
        return self

    def as_judgement(self, annotator: str, order: Sequence[int]) -> Judgement:
        """The judgement about stored candidates.

        Args:
            annotator: who signed in; never what the browser says.
            order: stored index of the candidate at each place on the screen.

        Raises:
            AnswerError: the answer contradicts the mode or the verdict, or is about another number of candidates.
        """
        for answer in (self.ranks, self.ratings):
            if answer is not None and len(answer) != len(order):
                raise AnswerError(f"The item has {len(order)} candidates; found an answer about {len(answer)}.")
        if self.best is not None and self.best >= len(order):
            raise AnswerError(f"best is {self.best}; the item has {len(order)} candidates.")
        try:
            return Judgement(
                item=self.item,
                annotator=annotator,
                mode=self.mode,
                ranks=None if self.ranks is None else tuple(to_stored(self.ranks, order)),
                ratings=None if self.ratings is None else tuple(to_stored(self.ratings, order)),
                best=None if self.best is None else order[self.best],
                verdict=self.verdict,
                seconds=self.seconds,
                client_key=self.client_key,
                time=datetime.now(timezone.utc),
            )
        except ValueError as error:
            raise AnswerError(str(error)) from error


def shown_answer(judgement: Judgement, order: Sequence[int]) -> dict[str, object]:
    """What a person said, in the order in which they see the candidates: the inverse of ``as_judgement``."""
    return {
        "verdict": judgement.verdict,
        "ranks": None if judgement.ranks is None else to_display(judgement.ranks, order),
        "ratings": None if judgement.ratings is None else to_display(judgement.ratings, order),
        "best": None if judgement.best is None else list(order).index(judgement.best),
        "seconds": judgement.seconds,
    }


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
