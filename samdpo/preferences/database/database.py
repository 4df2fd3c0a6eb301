"""The preference database: who was shown what, and what they said.

Every method is one transaction that is safe between threads and processes. What a method has returned is on disk; but
for the lease of :meth:`PreferenceDatabase.next_item`, which a power cut may take back, so that it costs no waiting.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timezone

from sqlalchemy import Engine, Select, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from samdpo.preferences.database.connect import MAY_BE_LOST, READ_ONLY, make_engine
from samdpo.preferences.database.errors import AlreadyJudgedError, ClientKeyError, DatabaseError, UnknownItemError
from samdpo.preferences.database.handing_out import ORDER_OF_WORK, count_left, lease, next_for
from samdpo.preferences.database.records import CandidateSet, Item, Judgement, OverlapRule, Progress
from samdpo.preferences.database.rows import (
    item_of_row,
    judgement_of_row,
    row_of_judgement,
    set_of_row,
    values_of_item,
    values_of_set,
)
from samdpo.preferences.database.schema import migrate
from samdpo.preferences.database.tables import CandidateSetRow, ItemRow, JudgementRow, LeaseRow

LEASE_SECONDS = 900.0
"""How long an item is kept for a person: longer than anybody looks at one, shorter than a lunch break."""


class PreferenceDatabase:
    """Candidate sets, their items, and people's judgements, in SQLite or PostgreSQL. Threads may share one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = engine.execution_options(**{READ_ONLY: True})
        self._leaser = engine.execution_options(**{MAY_BE_LOST: True})
        # SQLite has one writer and lets the others poll; threads of one process queue here instead, in order.
        self._one_writer = threading.Lock() if engine.dialect.name == "sqlite" else None

    @classmethod
    def open(cls, url: str, create: bool = True) -> PreferenceDatabase:
        """Open a database; create it, or bring it to this version's schema, where needed.

        Args:
            url: ``sqlite:///FILE`` or ``postgresql+psycopg://USER:PASSWORD@HOST/NAME``; see
                :func:`samdpo.preferences.database.locate.database_url`.
            create: whether to make an SQLite file that is not there.

        Raises:
            NewerSchemaError: a later version of samdpo has written it.
            DatabaseError: not a database, not reachable, another kind of database, a driver that is not installed.
        """
        engine = make_engine(url, create)
        try:
            migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine)

    @property
    def url(self) -> str:
        """The URL, without its password: fit for messages, not for opening."""
        return self._engine.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    # ---- candidate sets and items -------------------------------------------------------------------------------

    def add_candidate_set(self, candidate_set: CandidateSet, items: Sequence[Item]) -> None:
        """Add a set and its items; what is known already stays as it is, new items of a known set are added.

        Raises:
            ValueError: an item belongs to another set.
        """
        strays = [item for item in items if item.candidate_set != candidate_set.id]
        if strays:
            raise ValueError(f"Item {strays[0].id} is of the set {strays[0].candidate_set}, not {candidate_set.id}.")
        insert = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[self._engine.dialect.name]
        with self._writing() as session:
            session.execute(insert(CandidateSetRow).on_conflict_do_nothing(), values_of_set(candidate_set))
            if items:
                session.execute(insert(ItemRow).on_conflict_do_nothing(), [values_of_item(item) for item in items])

    def candidate_set(self, candidate_set: str) -> CandidateSet | None:
        """The set of this id, or None."""
        with self._reading() as session:
            row = session.get(CandidateSetRow, candidate_set)
            return row and set_of_row(row)

    def candidate_sets(self) -> list[CandidateSet]:
        """All sets, oldest first."""
        with self._reading() as session:
            rows = session.scalars(select(CandidateSetRow).order_by(CandidateSetRow.created, CandidateSetRow.id))
            return [set_of_row(row) for row in rows]

    def items(self, candidate_set: str) -> list[Item]:
        """Items of a set in the order of work."""
        with self._reading() as session:
            query = select(ItemRow).where(ItemRow.candidate_set == candidate_set)
            return [item_of_row(row) for row in session.scalars(query.order_by(*ORDER_OF_WORK))]

    def item(self, item: int) -> Item | None:
        """The item of this id, or None."""
        with self._reading() as session:
            row = session.get(ItemRow, item)
            return row and item_of_row(row)

    # ---- the work -----------------------------------------------------------------------------------------------

    def next_item(
        self, annotator: str, candidate_set: str, overlap: OverlapRule, lease_seconds: float = LEASE_SECONDS
    ) -> Item | None:
        """Hand out the next item to a person and lease it to them; None when there is nothing (now) for them.

        - An item this person holds a lease on comes again (a reloaded page), the one leased last first.
        - Never an item this person has judged or skipped.
        - An item goes to no more people at once than it needs: judgements and other people's leases count, skips
          do not.
        - Highest position first.

        Args:
            annotator: the person's name.
            candidate_set: id of the set.
            overlap: how many judgements an item needs.
            lease_seconds: until the item may go to somebody else. A judgement that comes later still counts.
        """
        now = _now()
        with self._writing(self._leaser) as session:
            row = next_for(session, annotator, candidate_set, overlap, now)
            if row is None:
                return None
            lease(session, row.id, annotator, now, lease_seconds)
            return item_of_row(row)

    def record(self, judgement: Judgement) -> bool:
        """Store a judgement and end its author's lease; True if it is new, False if its client key is known.

        A judgement with ``undone`` set (from an import) is kept as history and counts for nothing.

        Raises:
            UnknownItemError: there is no such item.
            AlreadyJudgedError: this person has judged the item under another client key.
            ClientKeyError: the client key is known for another item or person.
            ValueError: the answer is about another number of candidates than the item has.
        """
        try:
            return self._record(judgement)
        except IntegrityError:  # PostgreSQL: the same key came for another item at the same moment; now it is known
            return self._record(judgement)

    def _record(self, judgement: Judgement) -> bool:
        with self._writing() as session:
            # The item's lock makes two requests about it follow one another.
            item = session.get(ItemRow, judgement.item, with_for_update=True)
            if item is None:
                raise UnknownItemError(
                    f"There is no item {judgement.item} in {self.url}; its candidates were made for another database."
                )
            judgement.check_candidates(item.candidates)
            if self._is_known(session, judgement):
                return False
            session.add(row_of_judgement(judgement))
            if judgement.undone is None:
                _count(item, judgement.verdict, 1)
                session.execute(
                    delete(LeaseRow).where(LeaseRow.item == item.id, LeaseRow.annotator == judgement.annotator)
                )
        return True

    @staticmethod
    def _is_known(session: Session, judgement: Judgement) -> bool:
        same = session.scalars(select(JudgementRow).where(JudgementRow.client_key == judgement.client_key)).first()
        if same is not None:
            if (same.item, same.annotator) != (judgement.item, judgement.annotator):
                raise ClientKeyError(
                    f"The client key {judgement.client_key} was used for item {same.item} by {same.annotator!r}, now "
                    f"for item {judgement.item} by {judgement.annotator!r}; every judgement needs a key of its own."
                )
            return True
        if judgement.undone is None and session.scalars(
            _not_undone().where(JudgementRow.item == judgement.item, JudgementRow.annotator == judgement.annotator)
        ).first():
            raise AlreadyJudgedError(
                f"{judgement.annotator!r} has judged item {judgement.item} already; undo that judgement first."
            )
        return False

    def undo_last(
        self, annotator: str, candidate_set: str, lease_seconds: float = LEASE_SECONDS
    ) -> Judgement | None:
        """Take back a person's newest judgement (or skip) of a set; again for the one before.

        It stays in the database, marked as undone, and its item is leased to this person, so that it comes next.

        Args:
            annotator: the person's name.
            candidate_set: id of the set.
            lease_seconds: how long the item is theirs.

        Returns:
            what was undone; None when there is nothing to undo.
        """
        now = _now()
        with self._writing() as session:
            row = session.scalars(
                _not_undone(candidate_set).where(JudgementRow.annotator == annotator)
                .order_by(JudgementRow.id.desc()).limit(1).with_for_update()
            ).first()
            if row is None:
                return None
            row.undone = now
            item = session.get_one(ItemRow, row.item, with_for_update=True)
            _count(item, row.verdict, -1)
            lease(session, row.item, annotator, now, lease_seconds)
            return judgement_of_row(row)

    def progress(self, annotator: str, candidate_set: str, overlap: OverlapRule) -> Progress:
        """How far a person is; ``left`` is 0 exactly when :meth:`next_item` has nothing for them."""
        with self._reading() as session:
            query = _not_undone(candidate_set).where(JudgementRow.annotator == annotator)
            done = session.execute(query.with_only_columns(JudgementRow.verdict, JudgementRow.seconds)).all()
            left = count_left(session, annotator, candidate_set, overlap, _now())
        seconds = [of for verdict, of in done if verdict != "skipped"]
        median = statistics.median(seconds) if seconds else None
        return Progress(len(seconds), left, median, skipped=len(done) - len(seconds))

    def judgements(self, candidate_set: str | None = None, undone: bool = False) -> list[Judgement]:
        """Judgements of a set (or of all) in the order they came, without those that were undone.

        Args:
            candidate_set: id of the set, None for all.
            undone: with those that were undone.
        """
        with self._reading() as session:
            query = _of_set(candidate_set) if undone else _not_undone(candidate_set)
            return [judgement_of_row(row) for row in session.scalars(query.order_by(JudgementRow.id))]

    # ---- transactions -------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self, engine: Engine | None = None) -> Iterator[Session]:
        """A transaction, committed at the end of the block."""
        with self._one_writer or nullcontext(), self._session(engine or self._engine) as session:
            yield session

    def _reading(self) -> AbstractContextManager[Session]:
        return self._session(self._reader)

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                yield session
        except IntegrityError:
            raise
        except DBAPIError as error:
            reason = str(error.orig).strip().splitlines()[0]
            raise DatabaseError(
                f"The preference database {self.url} did not do its work: {reason}. Nothing of this step is stored; "
                "try again."
            ) from error


def _count(item: ItemRow, verdict: str, change: int) -> None:
    if verdict != "skipped":
        item.judged += change


def _of_set(candidate_set: str | None) -> Select[tuple[JudgementRow]]:
    query = select(JudgementRow)
    if candidate_set is None:
        return query
    return query.join(ItemRow, JudgementRow.item == ItemRow.id).where(ItemRow.candidate_set == candidate_set)


def _not_undone(candidate_set: str | None = None) -> Select[tuple[JudgementRow]]:
    return _of_set(candidate_set).where(JudgementRow.undone.is_(None))


def _now() -> datetime:
    return datetime.now(timezone.utc)
