"""Costs of trials beyond weights and operations: memory, and time measured."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ADDED: dict[str, sa.types.TypeEngine[Any]] = {
    "activations": sa.BigInteger(),
    "latency": sa.Double(),
    "latency_batch": sa.Double(),
}
INDEX = "ix_trials_leaderboard"


def upgrade() -> None:
    op.drop_index(INDEX, "trials")
    for name, kind in ADDED.items():
        op.add_column("trials", sa.Column(name, kind, nullable=True))
    _index(*ADDED)


def downgrade() -> None:
    op.drop_index(INDEX, "trials")
    for name in ADDED:
        op.drop_column("trials", name)
    _index()


def _index(*added: str) -> None:
    """Make the index of leaderboards, with the costs that were added."""
    scored = sa.text("score IS NOT NULL")
    columns = ["state", "score", "parameters", "macs", *added, "seconds", "search_id"]
    op.create_index(INDEX, "trials", columns, sqlite_where=scored, postgresql_where=scored)
