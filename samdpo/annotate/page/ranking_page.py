"""What the page can do for one person: hand out the next item, store a judgement, take the last one back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.database.errors import AlreadyJudgedError, EnoughJudgedError, UnknownItemError
from samdpo.annotate.page.item_views import ItemViews
from samdpo.annotate.page.progress_board import ProgressBoard
from samdpo.annotate.page.received import ReceivedJudgement, ReceivedUndo, shown_answer
from samdpo.annotate.page.settings import PageSettings
from samdpo.annotate.page.upcoming import Upcoming
from samdpo.errors import ConfigurationError
from samdpo.preferences.records import MOST_CANDIDATES, CandidateSet, Item


class OtherModeError(Exception):
    """A browser still shows the page of an earlier start, which asked for something else."""


class RankingPage:
    """The page's work, apart from the web. Threads may share one.

    ``volumes`` is whether cases have several slices, so that one must be told which.

    Args:
        database: where judgements go; holds the candidate set already.
        candidate_set: what is judged.
        views: of its items.
        settings: mode, overlap, lease.

    Raises:
        ConfigurationError: an item has more candidates than the page has keys.
    """

    def __init__(
        self,
        database: PreferenceDatabase,
        candidate_set: CandidateSet,
        views: ItemViews,
        settings: PageSettings,
    ) -> None:
        self.candidate_set = candidate_set
        self.settings = settings
        self.views = views
        self.database = database
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
        return {
            "item": None if item is None else item.id,
            "progress": asdict(self._progress.of(annotator)),
            "upcoming": [] if item is None else self._upcoming.after(item.id, annotator),
        }

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
        judgement = received.as_judgement(annotator, self.views.order(item, annotator))
        try:
            if self.database.record(judgement, self.settings.overlap):
                self._progress.count(judgement)
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
            order = self.views.order(self.item(judgement.item), annotator)
            answer = {"item": judgement.item, **shown_answer(judgement, order)}
        return {"undone": answer, **self.next(annotator)}
