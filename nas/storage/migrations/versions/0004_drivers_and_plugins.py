"""Who drives a search or an evaluation beyond its pid, what plug-ins were when it began, and notes."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("searches", sa.Column("note", sa.Text(), nullable=True))
    for table in ("searches", "evaluations"):
        op.add_column(table, sa.Column("driver", sa.String(), nullable=True))
        op.add_column(table, sa.Column("plugins", sa.JSON(), nullable=True))


def downgrade() -> None:
    for table in ("searches", "evaluations"):
        op.drop_column(table, "plugins")
        op.drop_column(table, "driver")
    op.drop_column("searches", "note")
