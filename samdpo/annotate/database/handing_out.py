"""Which item comes next for a person: the query, and the lease that keeps it from others."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, and_, case, exists, func, or_, select
from sqlalchemy.orm import Session

from samdpo.annotate.database.tables import ItemRow, JudgementRow, LeaseRow, overlap_draw
from samdpo.errors import ConfigurationError
from samdpo.preferences.records import Item

LONGEST_LEASE = 7 * 24 * 3600.0  # seconds; who has not judged an item in a week will not
MOST_PEOPLE = 1000  # that one item can need
ORDER_OF_WORK = (ItemRow.position.desc(), ItemRow.id.desc())  # as the index has it, read backwards


@dataclass(frozen=True)
class OverlapRule:
    """A ``share`` of the items, chosen by a hash and so always the same ones, goes to ``people`` people each.

    The other items need one judgement.
    """

    share: float = 0.0
    people: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigurationError(f"The overlap's share is {self.share}; expected 0 to 1, for example 0.1.")
        if not 1 <= self.people <= MOST_PEOPLE:
            raise ConfigurationError(
                f"The overlap's people are {self.people}; expected at least 1, and {MOST_PEOPLE} at most."
            )

    def needed(self, item: Item) -> int:
        """How many people's judgements an item needs."""
        return self.people if overlap_draw(item.id) < self.share else 1


def next_for(
    session: Session, annotator: str, candidate_set: str, overlap: OverlapRule, now: datetime
) -> ItemRow | None:
    """The next item of a set for a person, its row locked to the end of the transaction.

    The rules are those of :meth:`samdpo.annotate.database.database.PreferenceDatabase.next_item`.

    SQLite has one writer at a time, so what the query finds stays true. In PostgreSQL rows that others are about to
    lease are passed over, and after the lock is had the item is looked at again: it may have been leased between
    the query's view of the data and the lock. Where everything free is locked, the query waits instead.
    """
    held = session.scalars(_held_by(annotator, candidate_set, overlap, now).limit(1)).first()
    if held is not None:
        return held
    free = _free_for(annotator, candidate_set, overlap, now)
    for skip_locked in (True, False):
        query = free.limit(1).with_for_update(of=ItemRow, skip_locked=skip_locked)
        while (item := session.scalars(query).first()) is not None:
            if session.get_bind().dialect.name == "sqlite":
                return item
            session.expire_all()
            if session.scalars(free.where(ItemRow.id == item.id)).first() is not None:
                return item
    return None


def count_left(session: Session, annotator: str, candidate_set: str, overlap: OverlapRule, now: datetime) -> int:
    """How many items :func:`next_for` could hand to a person now."""
    mine = select(ItemRow.id).where(
        ItemRow.candidate_set == candidate_set,
        or_(_is_free(annotator, overlap, now), and_(_is_open(overlap), ItemRow.id.in_(_held(annotator, now)))),
        ~_judged_by(annotator),
    )
    return session.scalar(select(func.count()).select_from(mine.subquery())) or 0


def lease(session: Session, item: int, annotator: str, now: datetime, seconds: float) -> None:
    """Lease an item to a person, or for longer; the row stays when the lease has run out, as what was handed out."""
    expires = now + timedelta(seconds=min(seconds, LONGEST_LEASE))
    row = session.get(LeaseRow, (item, annotator))
    if row is None:
        session.add(LeaseRow(item=item, annotator=annotator, taken=now, expires=expires))
    else:
        row.taken, row.expires = now, expires


def _held_by(annotator: str, candidate_set: str, overlap: OverlapRule, now: datetime) -> Select[tuple[ItemRow]]:
    # Somebody whose lease had run out may have judged it before this person; then it is not needed any more.
    return (
        select(ItemRow)
        .join(LeaseRow, LeaseRow.item == ItemRow.id)
        .where(ItemRow.candidate_set == candidate_set, LeaseRow.annotator == annotator, LeaseRow.expires > now,
               _is_open(overlap), ~_judged_by(annotator))
        .order_by(LeaseRow.taken.desc())
    )


def _free_for(annotator: str, candidate_set: str, overlap: OverlapRule, now: datetime) -> Select[tuple[ItemRow]]:
    return (
        select(ItemRow)
        .where(ItemRow.candidate_set == candidate_set, _is_free(annotator, overlap, now), ~_judged_by(annotator))
        .order_by(*ORDER_OF_WORK)
    )


def _is_free(annotator: str, overlap: OverlapRule, now: datetime) -> ColumnElement[bool]:
    """Fewer people have judged it, or are at it, than it needs."""
    needed = _needed(overlap)
    at_it = (
        select(func.count())
        .select_from(LeaseRow)
        .where(LeaseRow.item == ItemRow.id, LeaseRow.annotator != annotator, LeaseRow.expires > now)
        .correlate(ItemRow)
        .scalar_subquery()
    )
    # The first comparison is implied by the second and spares it for everything that is done.
    return and_(ItemRow.judged < needed, ItemRow.judged + at_it < needed)


def _is_open(overlap: OverlapRule) -> ColumnElement[bool]:
    """Fewer people have judged it than it needs."""
    return ItemRow.judged < _needed(overlap)


def _needed(overlap: OverlapRule) -> ColumnElement[int]:
    return case((ItemRow.overlap_draw < overlap.share, overlap.people), else_=1)


def _judged_by(annotator: str) -> ColumnElement[bool]:
    return exists().where(
        JudgementRow.item == ItemRow.id, JudgementRow.annotator == annotator, JudgementRow.undone.is_(None)
    ).correlate(ItemRow)


def _held(annotator: str, now: datetime) -> Select[tuple[int]]:
    return select(LeaseRow.item).where(LeaseRow.annotator == annotator, LeaseRow.expires > now)
