"""The tables, in SQLAlchemy's typed declarative style, and their rows as records and back.

A change of a table needs a new revision in ``migrations/versions``. Times are UTC; SQLite
keeps them without a zone, so the type puts it back.
"""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from samdpo.preferences.records import CandidateSet, Item, Judgement

NOT_UNDONE = text("undone IS NULL")
_LISTS = ("ranks", "ratings", "box", "point")  # kept as JSON, tuples in the records


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone, kept as UTC to the microsecond."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; SQLite gets it without a zone."""
        if value is None:
            return None
        value = value.astimezone(timezone.utc)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """With the zone UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


class Base(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {datetime: UtcDateTime(), str: String()}  # noqa: RUF012 - SQLAlchemy's own name and form


class CandidateSetRow(Base):
    """A :class:`~samdpo.preferences.records.CandidateSet`."""

    __tablename__ = "candidate_set"

    id: Mapped[str] = mapped_column(primary_key=True)
    dataset: Mapped[str]
    fold: Mapped[str]
    stage: Mapped[str]
    plans_name: Mapped[str]
    model_hash: Mapped[str]
    plan_hash: Mapped[str]
    created: Mapped[datetime]
    folder: Mapped[str]


class ItemRow(Base):
    """An :class:`~samdpo.preferences.records.Item`, and what handing it out needs.

    ``judged`` counts the judgements that are neither skips nor undone. It changes in the transaction that changes
    them, and saves counting them anew for every item each time somebody asks for the next one.
    """

    __tablename__ = "item"
    __table_args__ = (
        UniqueConstraint("candidate_set", "case", "slice_index", "structure", name="uq_item"),
        Index("ix_item_order_of_work", "candidate_set", "position", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    candidate_set: Mapped[str] = mapped_column(ForeignKey("candidate_set.id"))
    case: Mapped[str]
    slice_index: Mapped[int]
    structure: Mapped[str]
    position: Mapped[float] = mapped_column(Float(53))
    candidates: Mapped[int]
    overlap_draw: Mapped[float] = mapped_column(Float(53))
    judged: Mapped[int] = mapped_column(default=0)


class JudgementRow(Base):
    """A :class:`~samdpo.preferences.records.Judgement`; rows are added and marked, never deleted."""

    __tablename__ = "judgement"
    __table_args__ = (
        Index("uq_judgement_item_annotator", "item", "annotator", unique=True, sqlite_where=NOT_UNDONE,
              postgresql_where=NOT_UNDONE),
        Index("ix_judgement_annotator", "annotator"),
        UniqueConstraint("client_key", name="uq_judgement_client_key"),
    )

    # SQLite counts up by itself only in a column of the type INTEGER.
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    item: Mapped[int] = mapped_column(ForeignKey("item.id"))
    annotator: Mapped[str]
    mode: Mapped[str]
    ranks: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    ratings: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    best: Mapped[int | None]
    verdict: Mapped[str]
    seconds: Mapped[float] = mapped_column(Float(53))
    client_key: Mapped[str]
    time: Mapped[datetime]
    undone: Mapped[datetime | None]
    box: Mapped[list[float] | None] = mapped_column(JSON(none_as_null=True))
    point: Mapped[list[float] | None] = mapped_column(JSON(none_as_null=True))


class LeaseRow(Base):
    """Who is looking at which item, until when."""

    __tablename__ = "lease"
    __table_args__ = (Index("ix_lease_annotator", "annotator"),)

    item: Mapped[int] = mapped_column(ForeignKey("item.id"), primary_key=True)
    annotator: Mapped[str] = mapped_column(primary_key=True)
    taken: Mapped[datetime]
    expires: Mapped[datetime]


class UndoRow(Base):
    """An undo by the key that the browser made for it: the same key sent again takes back nothing more."""

    __tablename__ = "undo"

    annotator: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    candidate_set: Mapped[str] = mapped_column(ForeignKey("candidate_set.id"))
    judgement: Mapped[int | None] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), ForeignKey("judgement.id")
    )
    time: Mapped[datetime]


class EndedSessionRow(Base):
    """A session that its owner has signed out of, kept until it would have ended by itself."""

    __tablename__ = "ended_session"

    signature: Mapped[str] = mapped_column(primary_key=True)
    ends: Mapped[datetime]


def values_of_set(candidate_set: CandidateSet) -> dict[str, Any]:
    """Column -> value of a new set."""
    return dataclasses.asdict(candidate_set)


def set_of_row(row: CandidateSetRow) -> CandidateSet:
    """The set of a row."""
    return CandidateSet(**_fields(CandidateSet, row))


def overlap_draw(item: int) -> float:
    """A number in [0, 1) that belongs to an item for good; below the share it is one that several people get."""
    digest = hashlib.sha256(f"overlap {item}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def values_of_item(item: Item) -> dict[str, Any]:
    """Column -> value of a new item, which nobody has judged."""
    return {**dataclasses.asdict(item), "overlap_draw": overlap_draw(item.id), "judged": 0}


def item_of_row(row: ItemRow) -> Item:
    """The item of a row."""
    return Item(**_fields(Item, row))


def row_of_judgement(judgement: Judgement) -> JudgementRow:
    """The row of a new judgement."""
    values = _fields(Judgement, judgement)
    for name in _LISTS:
        values[name] = None if values[name] is None else list(values[name])
    return JudgementRow(**values)


def judgement_of_row(row: JudgementRow) -> Judgement:
    """The judgement of a row."""
    values = _fields(Judgement, row)
    for name in _LISTS:
        values[name] = None if values[name] is None else tuple(values[name])
    return Judgement(**values)


def _fields(cls: type, source: Any) -> dict[str, Any]:
    return {field.name: getattr(source, field.name) for field in dataclasses.fields(cls)}
