"""When more answers would change little: how often the first proposal was right lately, and what the next ones buy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from samdpo.preferences.records import HIGHEST_RATING, Judgement

LATEST = 20  # answers that are looked at
ENOUGH = 18  # of them with the first proposal right: 9 of 10
LEAST = 10  # answers before anything is said: of fewer a share says nothing
AHEAD = 50  # images that the forecast is about


@dataclass(frozen=True)
class Outlook:
    """What the latest answers say about the next ones.

    Attributes:
        right: of the latest answers, how many called the first proposal right.
        answers: how many were looked at, 20 at most, skips left out.
        corrected: of the ``ahead`` next images, how many would be corrected if these are like the latest. The cases on
            which the proposals differ most come first, so that it is rather too many than too few.
        ahead: 50, or what is left.
        stop: whether it is time to.
    """

    right: int
    answers: int
    corrected: int
    ahead: int
    stop: bool

    @property
    def sentence(self) -> str:
        """For people, without what to type."""
        said = f"The first proposal was right in {self.right} of your dataset's last {self.answers} answers"
        if self.ahead >= LEAST:
            said += f"; about {self.corrected} of the next {self.ahead} images would be corrected"
        return f"{said}."


def outlook(latest: Sequence[Judgement], left: int) -> Outlook | None:
    """What to tell people after these answers; None while there are too few.

    Args:
        latest: newest first, neither undone nor skipped; more than 20 are not looked at.
        left: items that nobody has judged yet.
    """
    latest = latest[:LATEST]
    if len(latest) < LEAST:
        return None
    right = sum(first_is_right(judgement) for judgement in latest)
    ahead = min(AHEAD, left)
    corrected = round(ahead * (1 - right / len(latest)))
    return Outlook(right, len(latest), corrected, ahead, stop=len(latest) == LATEST and right >= ENOUGH)


def first_is_right(judgement: Judgement) -> bool:
    """Whether somebody called the first proposal right: accepted it, or gave it all stars. An order does not say so."""
    if judgement.verdict == "accepted":
        return judgement.best == 0
    return judgement.ratings is not None and judgement.ratings[0] == HIGHEST_RATING
