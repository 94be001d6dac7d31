"""Which trial a training went on from."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("trials", sa.Column("parent", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("trials", "parent")
