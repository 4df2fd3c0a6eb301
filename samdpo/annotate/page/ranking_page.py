"""What the page can do for one person: hand out the next item, store a judgement, take the last one back."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import islice
from threading import Lock
from typing import Any, Protocol

import numpy as np

from samdpo.annotate.database.database import PreferenceDatabase, Progress
from samdpo.annotate.database.errors import AlreadyJudgedError, EnoughJudgedError, UnknownItemError
from samdpo.annotate.outlook import LATEST, outlook
from samdpo.annotate.page.item_views import ItemViews, outlines
from samdpo.annotate.page.received import ReceivedJudgement, ReceivedPlace, ReceivedUndo, shown_answer
from samdpo.annotate.page.settings import PageSettings
from samdpo.errors import ConfigurationError
from samdpo.preferences.records import MOST_CANDIDATES, Box, CandidateSet, Item, Judgement, Point

AHEAD = 3  # items loaded ahead
FRESH = 3.0  # seconds; about as long as a quick person needs for one judgement


class OtherModeError(Exception):
    """A browser still shows the page of an earlier start, which asked for something else."""


class NoSegmenterError(Exception):
    """There is no model that answers a box or a point; the text says why."""


class Segmenter(Protocol):
    """What makes a mask of a person's box or point. Threads may share one."""

    def prepare(self, items: Sequence[Item]) -> None:
        """Get ready for these items in the background, the first one first; returns at once."""
        ...

    def segment(self, item: Item, box: Box | None, point: Point | None) -> np.ndarray:
        """(H, W) bool in pixels of the item's slice.

        Args:
            item: whose structure is meant.
            box: x0, y0, x1, y1, x1 and y1 just outside; or None.
            point: x, y of a pixel; one of the two is given.

        Raises:
            NoSegmenterError: there is no model, or none for this item.
        """
        ...


class Reviewer(Protocol):
    """What a page that reviews predictions does beside storing answers."""

    def note(self, item: Item) -> str:
        """Why a person should look at an item."""
        ...

    def answered(self, item: Item) -> None:
        """An answer to an item was stored or taken back; returns at once."""
        ...


class RankingPage:
    """The page's work, apart from the web. Threads may share one.

    ``volumes`` is whether cases have several slices, so that one must be told which.

    Args:
        database: where judgements go; holds the candidate set already.
        candidate_set: what is judged.
        views: of its items.
        settings: mode, overlap, lease.
        segmenter: makes masks of boxes and points; without one these are stored and no mask is shown.
        reviewer: of a page that shows predictions, one a case, which are accepted or mended.

    Raises:
        ConfigurationError: an item has more candidates than the page has keys.
    """

    def __init__(
        self,
        database: PreferenceDatabase,
        candidate_set: CandidateSet,
        views: ItemViews,
        settings: PageSettings,
        segmenter: Segmenter | None = None,
        reviewer: Reviewer | None = None,
    ) -> None:
        self.candidate_set = candidate_set
        self.settings = settings
        self.views = views
        self.database = database
        self.segmenter, self.reviewer = segmenter, reviewer
        items = database.items(candidate_set.id)
        self._items = {item.id: item for item in items}
        self.volumes = any(item.slice_index > 0 for item in items)
        most = max((item.candidates for item in items), default=0)
        if most > MOST_CANDIDATES:
            raise ConfigurationError(
                f"candidates.count is {most}; the page shows {MOST_CANDIDATES} at most. Set fewer in the plan."
            )
        self._upcoming = Upcoming(items, (judgement.item for judgement in database.judgements(candidate_set.id)))
        self._progress = ProgressBoard(lambda name: database.progress(name, candidate_set.id, settings.overlap))

    def item(self, item: int) -> Item:
        """The item of this id in this candidate set; raises UnknownItemError where there is none."""
        found = self._items.get(item) or self.database.item(item)  # another start may have added some meanwhile
        if found is None or found.candidate_set != self.candidate_set.id:
            raise UnknownItemError(f"There is no item {item} in candidate set {self.candidate_set.id}.")
        return found

    def next(self, annotator: str) -> dict[str, Any]:
        """Hand out the next item: its id or None, this person's progress, and ids of items to load ahead."""
        settings = self.settings
        item = self.database.next_item(annotator, self.candidate_set.id, settings.overlap, settings.lease_seconds)
        if item is None:
            self._progress.forget(annotator)
        upcoming = [] if item is None else self._upcoming.after(item.id, annotator)
        if item is not None and self.segmenter is not None:
            self.segmenter.prepare([item, *(self._items[one] for one in upcoming)])
        progress = self._progress.of(annotator)
        says_when = self.settings.ordered and self.reviewer is None
        seen = outlook(self.database.latest(self.candidate_set.id, LATEST), progress.left) if says_when else None
        return {
            "item": None if item is None else item.id,
            "progress": asdict(progress),
            "upcoming": upcoming,
            "outlook": seen and {"sentence": seen.sentence, "stop": seen.stop},
        }

    def content(self, item: Item) -> dict[str, Any]:
        """What the browser needs to show an item, but for its pixels."""
        note = "" if self.reviewer is None else self.reviewer.note(item)
        return {**self.views.content(item), "note": note}

    def segment(self, item: Item, place: ReceivedPlace) -> list[list[int]]:
        """The outline of what a person's box or point is decoded to; see :func:`item_views.outlines`.

        Raises:
            AnswerError: the place lies outside of the slice.
            NoSegmenterError: there is no model.
        """
        place.check_inside(self.views.shape(item))
        if self.segmenter is None:
            raise NoSegmenterError("This page was started without a model.")
        return outlines(self.segmenter.segment(item, place.box, place.point))

    def record(self, annotator: str, received: ReceivedJudgement) -> dict[str, Any]:
        """Store a judgement, which may have been sent before, and hand out the next item.

        Raises:
            OtherModeError: the browser asks for something else than this page.
            UnknownItemError, AlreadyJudgedError, ClientKeyError, NotHandedOutError, EnoughJudgedError: as the database
                says.
            AnswerError: the answer does not fit the item.
        """
        if received.mode != self.settings.mode:
            raise OtherModeError(
                f"The page asks for {self.settings.mode} now, your browser still for {received.mode}. Load it again."
            )
        item = self.item(received.item)
        judgement = received.as_judgement(annotator, item.candidates)
        if judgement.box is not None or judgement.point is not None:
            ReceivedPlace(box=judgement.box, point=judgement.point).check_inside(self.views.shape(item))
        try:
            if self.database.record(judgement, self.settings.overlap):
                self._progress.count(judgement)
            if self.reviewer is not None:
                self.reviewer.answered(item)
        except (AlreadyJudgedError, EnoughJudgedError):
            self._progress.forget(annotator)  # others have done more than the board knows
            raise
        return self.next(annotator)

    def undo(self, annotator: str, received: ReceivedUndo) -> dict[str, Any]:
        """Take back this person's last judgement and hand out its item again, with the answer that was given.

        The same ``undo_key`` sent again, after a lost reply, takes back nothing more; after a restart, or to another
        server, neither.
        """
        judgement = self.database.undo_last(
            annotator, self.candidate_set.id, self.settings.lease_seconds, received.undo_key
        )
        self._progress.forget(annotator)
        answer = None
        if judgement is not None:
            answer = {"item": judgement.item, **shown_answer(judgement)}
            if self.reviewer is not None:
                self.reviewer.answered(self.item(judgement.item))
        return {"undone": answer, **self.next(annotator)}


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


class ProgressBoard:
    """Keeps each person's progress for some seconds and counts their own judgements on; others' work shows later.

    Args:
        read: the progress of a person, from the database.
        clock: seconds.
    """

    def __init__(self, read: Callable[[str], Progress], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._known: dict[str, tuple[float, Progress]] = {}
        self._lock = Lock()

    def of(self, annotator: str) -> Progress:
        """This person's progress."""
        with self._lock:
            read_at, progress = self._known.get(annotator, (float("-inf"), None))
        now = self._clock()
        if progress is not None and now - read_at < FRESH:
            return progress
        progress = self._read(annotator)
        with self._lock:
            self._known[annotator] = (now, progress)
        return progress

    def count(self, judgement: Judgement) -> None:
        """Count a judgement that was stored just now."""
        with self._lock:
            if judgement.annotator not in self._known:
                return
            read_at, progress = self._known[judgement.annotator]
            skipped = judgement.verdict == "skipped"
            median = progress.median_seconds
            counted = dataclasses.replace(
                progress,
                judged=progress.judged + (not skipped),
                skipped=progress.skipped + skipped,
                left=max(progress.left - 1, 0),
                median_seconds=judgement.seconds if median is None and not skipped else median,
            )
            self._known[judgement.annotator] = (read_at, counted)

    def forget(self, annotator: str) -> None:
        """Ask the database again: something was taken back, or nothing is left."""
        with self._lock:
            self._known.pop(annotator, None)
