"""Where the structure is, of judgements that found no candidate acceptable."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns; older judgements say nothing of it."""
    for name in ("box", "point"):
        op.add_column("judgement", sa.Column(name, sa.JSON, nullable=True))
