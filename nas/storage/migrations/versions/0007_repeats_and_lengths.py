"""Trials of further seeds and of other lengths of training; a reused trial tells the length of its score."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NULLABLE = ("asked_episodes", "continued_episodes")


def upgrade() -> None:
    op.add_column("trials", sa.Column("repeat", sa.Integer(), server_default="0", nullable=False))
    for name in NULLABLE:
        op.add_column("trials", sa.Column(name, sa.Integer(), nullable=True))
    _reused("its.train_episodes")


def downgrade() -> None:
    for name in ("repeat", *NULLABLE):
        op.drop_column("trials", name)
    _reused("0")


def _reused(episodes: str) -> None:
    """Set the training episodes of reused trials, from the trial that each took its score from."""
    op.execute(
        f"UPDATE trials SET train_episodes = (SELECT {episodes} FROM trials its WHERE "
        "its.search_id = trials.search_id AND its.number = trials.reused) WHERE state = 'reused'"
    )
