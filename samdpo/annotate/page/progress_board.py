"""How far everybody is, without asking the database each time: counting what is left looks at every item."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from threading import Lock

from samdpo.annotate.database.database import Progress
from samdpo.preferences.records import Judgement

FRESH = 3.0  # seconds; about as long as a quick person needs for one judgement


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
