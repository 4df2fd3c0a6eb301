"""Candidate sets, their items, judgements, leases."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NOT_UNDONE = sa.text("undone IS NULL")


def upgrade() -> None:
    """Make the tables."""
    time = sa.DateTime(timezone=True)
    op.create_table(
        "candidate_set",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("dataset", sa.String, nullable=False),
        sa.Column("fold", sa.String, nullable=False),
        sa.Column("stage", sa.String, nullable=False),
        sa.Column("plans_name", sa.String, nullable=False),
        sa.Column("model_hash", sa.String, nullable=False),
        sa.Column("plan_hash", sa.String, nullable=False),
        sa.Column("created", time, nullable=False),
        sa.Column("folder", sa.String, nullable=False),
    )
    op.create_table(
        "item",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("candidate_set", sa.String, sa.ForeignKey("candidate_set.id"), nullable=False),
        sa.Column("case", sa.String, nullable=False),
        sa.Column("slice_index", sa.Integer, nullable=False),
        sa.Column("structure", sa.String, nullable=False),
        sa.Column("position", sa.Float(53), nullable=False),
        sa.Column("candidates", sa.Integer, nullable=False),
        sa.Column("overlap_draw", sa.Float(53), nullable=False),
        sa.Column("judged", sa.Integer, nullable=False),
        sa.UniqueConstraint("candidate_set", "case", "slice_index", "structure", name="uq_item"),
    )
    op.create_index("ix_item_order_of_work", "item", ["candidate_set", "position", "id"])
    op.create_table(
        "judgement",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("item", sa.BigInteger, sa.ForeignKey("item.id"), nullable=False),
        sa.Column("annotator", sa.String, nullable=False),
        sa.Column("mode", sa.String, nullable=False),
        sa.Column("ranks", sa.JSON, nullable=True),
        sa.Column("ratings", sa.JSON, nullable=True),
        sa.Column("best", sa.Integer, nullable=True),
        sa.Column("verdict", sa.String, nullable=False),
        sa.Column("seconds", sa.Float(53), nullable=False),
        sa.Column("client_key", sa.String, nullable=False),
        sa.Column("time", time, nullable=False),
        sa.Column("undone", time, nullable=True),
        sa.UniqueConstraint("client_key", name="uq_judgement_client_key"),
    )
    op.create_index("ix_judgement_annotator", "judgement", ["annotator"])
    op.create_index("uq_judgement_item_annotator", "judgement", ["item", "annotator"], unique=True,
                    sqlite_where=NOT_UNDONE, postgresql_where=NOT_UNDONE)
    op.create_table(
        "lease",
        sa.Column("item", sa.BigInteger, sa.ForeignKey("item.id"), primary_key=True),
        sa.Column("annotator", sa.String, primary_key=True),
        sa.Column("taken", time, nullable=False),
        sa.Column("expires", time, nullable=False),
    )
    op.create_index("ix_lease_annotator", "lease", ["annotator"])
