"""Which items probably come next for a person, so that the browser loads them ahead and switching takes no time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from threading import Lock

from samdpo.preferences.records import Item

AHEAD = 3  # items loaded ahead


class Upcoming:
    """A guess; only the database hands out items, and a wrong guess costs a moment of loading and nothing else.

    Items are handed out in the order of work to whoever asks. So a person's next one lies as far ahead as others are
    handed items in between, and that is about as many as were since this person's last.
    """

    def __init__(self, items: Sequence[Item], seen: Iterable[int]) -> None:
        self._order = [item.id for item in items]
        self._place = {item: place for place, item in enumerate(self._order)}
        self._seen = set(seen)
        self._handed_out = 0
        self._turn: dict[str, int] = {}  # how many had been handed out when a person got the last one
        self._lock = Lock()

    def after(self, item: int, annotator: str) -> list[int]:
        """Ids of the items to load after ``item``, which this person gets now."""
        with self._lock:
            self._seen.add(item)
            self._handed_out += 1
            others = self._handed_out - self._turn.get(annotator, self._handed_out - 1) - 1
            self._turn[annotator] = self._handed_out
            following = (self._order[place] for place in range(self._place.get(item, 0) + 1, len(self._order)))
            first = max(0, others - AHEAD // 2)
            return list(islice((one for one in following if one not in self._seen), first, first + AHEAD))
