"""Indices of trials with the seeds that leaderboards go by."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

BOARD, REPEATS = "ix_trials_leaderboard", "ix_trials_repeats"
COLUMNS = (
    "state",
    "score",
    "parameters",
    "macs",
    "activations",
    "latency",
    "latency_batch",
    "seconds",
    "search_id",
)


def upgrade() -> None:
    op.drop_index(BOARD, "trials")
    _create(BOARD, [*COLUMNS, "repeat"], "score IS NOT NULL")
    _create(REPEATS, ["search_id"], "repeat > 0")


def downgrade() -> None:
    op.drop_index(REPEATS, "trials")
    op.drop_index(BOARD, "trials")
    _create(BOARD, COLUMNS, "score IS NOT NULL")


def _create(name: str, columns: Sequence[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, "trials", list(columns), sqlite_where=condition, postgresql_where=condition)
