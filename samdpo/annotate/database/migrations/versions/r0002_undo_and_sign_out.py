"""Undos by their keys, and sessions that were signed out, so that a restart and a second server know them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    time = sa.DateTime(timezone=True)
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "undo",
        sa.Column("annotator", sa.String, primary_key=True),
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("candidate_set", sa.String, sa.ForeignKey("candidate_set.id"), nullable=False),
        sa.Column("judgement", number, sa.ForeignKey("judgement.id"), nullable=True),
        sa.Column("time", time, nullable=False),
    )
    op.create_table(
        "ended_session",
        sa.Column("signature", sa.String, primary_key=True),
        sa.Column("ends", time, nullable=False),
    )
