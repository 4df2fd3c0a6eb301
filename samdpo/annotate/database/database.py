"""The preference database: who was shown what, and what they said.

Every method is one transaction that is safe between threads and processes. What a method has returned is on disk; but
for the lease of :meth:`PreferenceDatabase.next_item`, which a power cut may take back, so that it costs no waiting: the
item is then handed out again.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal, TypeVar

from sqlalchemy import Engine, Select, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.orm import Session

from samdpo.annotate.database.connect import BUSY_SECONDS, DEADLINE, MAY_BE_LOST, READ_ONLY, make_engine, shown
from samdpo.annotate.database.errors import (
    AlreadyJudgedError,
    ClientKeyError,
    ConcurrencyError,
    ContradictionError,
    DatabaseError,
    EnoughJudgedError,
    NotHandedOutError,
    UnknownItemError,
)
from samdpo.annotate.database.handing_out import ORDER_OF_WORK, OverlapRule, count_left, lease, next_for
from samdpo.annotate.database.schema import migrate
from samdpo.annotate.database.tables import (
    CandidateSetRow,
    EndedSessionRow,
    ItemRow,
    JudgementRow,
    LeaseRow,
    UndoRow,
    item_of_row,
    judgement_of_row,
    row_of_judgement,
    set_of_row,
    values_of_item,
    values_of_set,
)
from samdpo.preferences.records import CandidateSet, Item, Judgement, checked

Outcome = Literal["new", "known", "refused"]
Kept = TypeVar("Kept", CandidateSet, Item, Judgement)
Result = TypeVar("Result")
_ATTEMPTS = 3
_IN_VAIN = 0.1  # of the patience is left to those who come after somebody has waited in vain
_CONCURRENT = ("40001", "40P01")  # PostgreSQL's codes of serialisation failures and deadlocks
_AT_ONCE = 500  # values of one IN, of which databases take only so many

LEASE_SECONDS = 900.0
"""How long an item is kept for a person: longer than anybody looks at one, shorter than a lunch break."""


@dataclass(frozen=True)
class Progress:
    """How far one person is.

    Attributes:
        judged: items this person has answered, skips left out.
        left: items that can still be handed to this person.
        median_seconds: per judgement, None before the first.
        skipped: items this person has skipped.
    """

    judged: int
    left: int
    median_seconds: float | None
    skipped: int = 0


class PreferenceDatabase:
    """Candidate sets, their items, and people's judgements, in SQLite or PostgreSQL. Threads may share one."""

    def __init__(self, engine: Engine, patience: float = BUSY_SECONDS) -> None:
        self._engine = engine
        self._patience = patience
        self._reader = engine.execution_options(**{READ_ONLY: True})
        self._leaser = engine.execution_options(**{MAY_BE_LOST: True})
        # SQLite has one writer and lets the others poll; threads of one process queue here instead, in order.
        self._one_writer = threading.Lock() if engine.dialect.name == "sqlite" else None
        self._waited_in_vain = False

    @classmethod
    def open(
        cls, url: str, create: bool = True, patience: float = BUSY_SECONDS, only_read: bool = False
    ) -> PreferenceDatabase:
        """Open a database; create it, or bring it to this version's schema, where needed.

        Args:
            url: ``sqlite:///FILE`` or ``postgresql+psycopg://USER:PASSWORD@HOST/NAME``; see
                :func:`samdpo.annotate.database.locate.database_url`.
            create: whether to make an SQLite file that is not there.
            patience: seconds that a method waits, in all, for others who write.
            only_read: whether nothing will be written: an SQLite file that may not be, or lies where nothing may be,
                opens then too.

        Raises:
            NewerSchemaError: a later version of samdpo has written it.
            DatabaseError: not a database, not reachable, another kind of database, a driver that is not installed.
        """
        engine = make_engine(url, create, patience, only_read)
        try:
            migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, patience)

    @property
    def url(self) -> str:
        """The URL, without its password: fit for messages, not for opening."""
        return shown(self._engine.url)

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
        with self._writing() as session:
            self._insert_new(session, CandidateSetRow, [values_of_set(candidate_set)])
            self._insert_new(session, ItemRow, [values_of_item(item) for item in items])

    def _insert_new(self, session: Session, table: type[Any], values: list[dict[str, Any]]) -> None:
        """Insert rows; those that are there stay as they are."""
        insert = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[self._engine.dialect.name]
        if values:
            session.execute(insert(table).on_conflict_do_nothing(), values)

    def add_all(
        self, sets: Sequence[CandidateSet], items: Sequence[Item], judgements: Sequence[Judgement]
    ) -> list[Outcome]:
        """Add what another database holds, in one transaction: where anything contradicts, nothing is added.

        What is known stays as it is.

        Args:
            sets, items: checked ones; every item is of one of the sets.
            judgements: checked ones, each of one of the items.

        Returns:
            of each judgement whether it is ``new``, ``known`` by its client key, or ``refused`` because its author has
            judged the item under another key.

        Raises:
            ContradictionError: a set is known as one of another dataset, an item with another number of candidates, or
                two of the records differ under one id.
            ClientKeyError: a client key is known for another item, person or answer.
        """
        sets, items = _without_repeats(sets, "id"), _without_repeats(items, "id")
        _without_repeats(judgements, "client_key")
        return self._persist(lambda: self._add_all(sets, items, judgements))

    def _add_all(
        self, sets: Sequence[CandidateSet], items: Sequence[Item], judgements: Sequence[Judgement]
    ) -> list[Outcome]:
        with self._writing() as session:
            self._insert_new(session, CandidateSetRow, [values_of_set(one) for one in sets])
            for one in sets:
                known = session.get_one(CandidateSetRow, one.id)
                if (known.dataset, known.fold) != (one.dataset, one.fold):
                    raise ContradictionError(
                        f"The candidate set {one.id} is of fold {one.fold} of {one.dataset}, and in {self.url} it is "
                        f"known as one of fold {known.fold} of {known.dataset}."
                    )
            self._insert_new(session, ItemRow, [values_of_item(item) for item in items])
            rows: dict[int, ItemRow] = {}
            for some in _parts(sorted(item.id for item in items)):  # sorted: two imports lock them in one order
                query = select(ItemRow).where(ItemRow.id.in_(some)).order_by(ItemRow.id).with_for_update()
                rows.update((row.id, row) for row in session.scalars(query))
            for item in items:
                row = rows.get(item.id)
                if row is None or row.candidates != item.candidates:
                    found = "another item at its place" if row is None else f"{row.candidates} candidates"
                    raise ContradictionError(
                        f"The item {item.id} (case {item.case!r}, slice {item.slice_index}, {item.structure!r}) has "
                        f"{item.candidates} candidates, and {self.url} has {found}."
                    )
            return self._add_judgements(session, rows, judgements)

    def _add_judgements(
        self, session: Session, items: dict[int, ItemRow], judgements: Sequence[Judgement]
    ) -> list[Outcome]:
        known: dict[str, Judgement] = {}
        for some in _parts([judgement.client_key for judgement in judgements]):
            for row in session.scalars(select(JudgementRow).where(JudgementRow.client_key.in_(some))):
                known[row.client_key] = judgement_of_row(row)
        taken: set[tuple[int, str]] = set()
        for some in _parts(sorted({judgement.item for judgement in judgements})):
            columns = _not_undone().where(JudgementRow.item.in_(some))
            taken |= {(item, who) for item, who in session.execute(
                columns.with_only_columns(JudgementRow.item, JudgementRow.annotator)
            )}
        outcomes: list[Outcome] = []
        leases = []
        for judgement in judgements:
            place = (judgement.item, judgement.annotator)
            same = known.get(judgement.client_key)
            if same is not None:
                _check_same(same, judgement)
                outcomes.append("known")
            elif judgement.undone is None and place in taken:
                outcomes.append("refused")
            else:
                session.add(row_of_judgement(judgement))
                known[judgement.client_key] = judgement
                if judgement.undone is None:
                    taken.add(place)
                    _count(items[judgement.item], judgement.verdict, 1)
                    leases.append({"of_item": judgement.item, "of_person": judgement.annotator})
                outcomes.append("new")
        session.flush()
        if leases:
            of = LeaseRow.__table__.c
            mine = (of.item == bindparam("of_item")) & (of.annotator == bindparam("of_person"))
            session.connection().execute(delete(LeaseRow.__table__).where(mine), leases)
        return outcomes

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
            lease_seconds: until the item may go to somebody else; a week at most. A judgement that comes later counts
                as long as the item needs one, see :meth:`record`.
        """
        return self._persist(lambda: self._next_item(annotator, candidate_set, overlap, lease_seconds))

    def _next_item(
        self, annotator: str, candidate_set: str, overlap: OverlapRule, lease_seconds: float
    ) -> Item | None:
        now = _now()
        with self._writing(self._leaser) as session:
            row = next_for(session, annotator, candidate_set, overlap, now)
            if row is None:
                return None
            lease(session, row.id, annotator, now, lease_seconds)
            return item_of_row(row)

    def record(self, judgement: Judgement, overlap: OverlapRule | None = None) -> bool:
        """Store a judgement and end its author's lease; True if it is new, False if its client key is known.

        A judgement with ``undone`` set is kept as history and counts for nothing.

        Args:
            judgement: what somebody said.
            overlap: how many judgements an item needs. With it an item is judged only by those to whom
                :meth:`next_item` or :meth:`undo_last` has handed it, also after their lease has run out, and only
                while it needs judgements; skips need nothing.

        Raises:
            UnknownItemError: there is no such item.
            AlreadyJudgedError: this person has judged the item under another client key.
            ClientKeyError: the client key is known for another item or person.
            NotHandedOutError: the item was not handed to this person.
            EnoughJudgedError: others have judged it as often as it needs.
            ValueError: a field is of a wrong kind or range, or the answer is about another number of candidates than
                the item has.
        """
        judgement = checked(judgement)
        return self._persist(lambda: self._record(judgement, overlap))

    def _record(self, judgement: Judgement, overlap: OverlapRule | None) -> bool:
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
            if overlap is not None:
                _check_turn(session, item, judgement, overlap)
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
            _check_same_place(same, judgement)
            return True
        if judgement.undone is None and session.scalars(
            _not_undone().where(JudgementRow.item == judgement.item, JudgementRow.annotator == judgement.annotator)
        ).first():
            raise AlreadyJudgedError(
                f"{judgement.annotator!r} has judged item {judgement.item} already; undo that judgement first."
            )
        return False

    def undo_last(
        self, annotator: str, candidate_set: str, lease_seconds: float = LEASE_SECONDS, undo_key: str | None = None
    ) -> Judgement | None:
        """Take back a person's newest judgement (or skip) of a set; again for the one before.

        It stays in the database, marked as undone, and its item is leased to this person, so that it comes next.

        Args:
            annotator: the person's name.
            candidate_set: id of the set.
            lease_seconds: how long the item is theirs.
            undo_key: UUID of this undo. Called again with it, whoever does so and however much later, the method takes
                back nothing more.

        Returns:
            what was undone, the first time this key was used; None when there was nothing to undo.
        """
        return self._persist(lambda: self._undo_last(annotator, candidate_set, lease_seconds, undo_key))

    def _undo_last(
        self, annotator: str, candidate_set: str, lease_seconds: float, undo_key: str | None
    ) -> Judgement | None:
        now = _now()
        with self._writing() as session:
            undo = None
            if undo_key is not None:
                undo = session.get(UndoRow, (annotator, undo_key))
                if undo is not None:
                    known = undo.judgement and session.get(JudgementRow, undo.judgement)
                    return judgement_of_row(known) if known else None
                undo = UndoRow(annotator=annotator, key=undo_key, candidate_set=candidate_set, time=now)
                session.add(undo)
                session.flush()  # where the same key is on its way, this waits for its end
            row = session.scalars(
                _not_undone(candidate_set).where(JudgementRow.annotator == annotator)
                .order_by(JudgementRow.id.desc()).limit(1).with_for_update()
            ).first()
            if row is None:
                return None
            row.undone = max(now, row.time)  # the clock may have been set back
            if undo is not None:
                undo.judgement = row.id
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

    def latest(self, candidate_set: str, count: int) -> list[Judgement]:
        """The newest ``count`` answers of a set, newest first, without skips and those that were undone."""
        with self._reading() as session:
            query = _not_undone(candidate_set).where(JudgementRow.verdict != "skipped")
            rows = session.scalars(query.order_by(JudgementRow.id.desc()).limit(count))
            return [judgement_of_row(row) for row in rows]

    # ---- sessions of the page -----------------------------------------------------------------------------------

    def end_session(self, signature: str, ends: float) -> None:
        """Note that a session was signed out.

        Args:
            signature: of its cookie.
            ends: when it would end by itself, in seconds since 1970; after that it is forgotten.
        """
        row = {"signature": signature, "ends": datetime.fromtimestamp(ends, timezone.utc)}
        with self._writing() as session:
            session.execute(delete(EndedSessionRow).where(EndedSessionRow.ends < _now()))
            self._insert_new(session, EndedSessionRow, [row])

    def has_ended(self, signature: str) -> bool:
        """Whether a session was signed out, here or on another server."""
        with self._reading() as session:
            return session.get(EndedSessionRow, signature) is not None

    # ---- transactions -------------------------------------------------------------------------------------------

    @staticmethod
    def _persist(transaction: Callable[[], Result]) -> Result:
        """Do a transaction again that has met another one in PostgreSQL.

        A key that came twice at the same moment is known the second time; of those that wait for each other one is
        ended. SQLite has one writer at a time and knows neither.
        """
        for _ in range(_ATTEMPTS):
            try:
                return transaction()
            except (IntegrityError, ConcurrencyError):
                continue
        return transaction()

    @contextmanager
    def _writing(self, engine: Engine | None = None) -> Iterator[Session]:
        """A transaction, committed at the end of the block. Waiting in line and for other processes has one limit.

        While somebody else blocks an SQLite file, only the first to come have all of that time: what follows would wait
        in vain as well, and fill the server with those who wait.
        """
        patience = self._patience * (_IN_VAIN if self._waited_in_vain else 1)
        deadline = time.monotonic() + patience
        if self._one_writer is not None and not self._one_writer.acquire(timeout=patience):
            self._waited_in_vain = True
            raise DatabaseError(
                f"The preference database {self.url} did not do its work: others have been writing for "
                f"{patience:.0f} s. Nothing of this step is stored; try again."
            )
        try:
            with self._session(engine or self._engine, deadline) as session:
                yield session
        finally:
            if self._one_writer is not None:
                self._one_writer.release()

    def _reading(self) -> AbstractContextManager[Session]:
        return self._session(self._reader)

    @contextmanager
    def _session(self, engine: Engine, deadline: float | None = None) -> Iterator[Session]:
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                if deadline is not None:
                    self._begin(session, deadline)
                yield session
        except IntegrityError:
            raise
        except (DBAPIError, NoConnectionFree) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            refused = ConcurrencyError if getattr(cause, "sqlstate", None) in _CONCURRENT else DatabaseError
            raise refused(
                f"The preference database {self.url} did not do its work: {reason}. Nothing of this step is stored; "
                "try again."
            ) from error


    def _begin(self, session: Session, deadline: float) -> None:
        began = False
        try:
            session.connection(execution_options={DEADLINE: deadline})
            began = True
        finally:
            self._waited_in_vain = not began and self._one_writer is not None


def _check_turn(session: Session, item: ItemRow, judgement: Judgement, overlap: OverlapRule) -> None:
    """Raise unless the item was handed to the judgement's author and needs what is said; its row is locked."""
    if session.get(LeaseRow, (item.id, judgement.annotator)) is None:
        raise NotHandedOutError("This case was not handed to you, and is somebody else's; go on with the next one.")
    if judgement.verdict != "skipped" and item.judged >= overlap.needed(item_of_row(item)):
        raise EnoughJudgedError(
            "This case is already judged: it was kept for you for a while and then went to somebody else. Your earlier "
            "answers are stored; go on with the next one."
        )


def _check_same_place(known: Judgement | JudgementRow, judgement: Judgement) -> None:
    if (known.item, known.annotator) != (judgement.item, judgement.annotator):
        raise ClientKeyError(
            f"The client key {judgement.client_key} was used for item {known.item} by {known.annotator!r}, now "
            f"for item {judgement.item} by {judgement.annotator!r}; every judgement needs a key of its own."
        )


def _check_same(known: Judgement, judgement: Judgement) -> None:
    """Raise where two judgements of one key say different things; one may have been undone since."""
    _check_same_place(known, judgement)
    said = ("mode", "verdict", "ranks", "ratings", "best", "box", "point")
    if any(getattr(known, name) != getattr(judgement, name) for name in said):
        raise ClientKeyError(
            f"The client key {judgement.client_key} was used for another answer on item {judgement.item} by "
            f"{judgement.annotator!r}; every judgement needs a key of its own."
        )


def _without_repeats(records: Sequence[Kept], key: str) -> list[Kept]:
    """Each record once; raises ContradictionError where two under one key differ."""
    found: dict[Hashable, Kept] = {}
    for record in records:
        known = found.setdefault(getattr(record, key), record)
        if known != record:
            raise ContradictionError(
                f"Two different {type(record).__name__} records have the {key} {getattr(record, key)}."
            )
    return list(found.values())


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))


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
