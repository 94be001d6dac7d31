"""An index of the trials of further seeds, of which most searches have none."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

INDEX = "ix_trials_repeats"


def upgrade() -> None:
    further = sa.text("repeat > 0")
    op.create_index(INDEX, "trials", ["search_id"], sqlite_where=further, postgresql_where=further)


def downgrade() -> None:
    op.drop_index(INDEX, "trials")
