"""An index from which a long search is summed up."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

NAME, FIRST = "ix_trials_search", ("search_id", "state", "score")
REST = (
    *("number", "repeat", "kind", "observed", "seconds", "ci95", "architecture_id", "parameters", "macs"),
    *("activations", "latency", "latency_batch", "train_episodes", "finished_at"),
)


def upgrade() -> None:
    op.drop_index(NAME, "trials")
    op.create_index(NAME, "trials", [*FIRST, *REST])


def downgrade() -> None:
    op.drop_index(NAME, "trials")
    op.create_index(NAME, "trials", [*FIRST])
