"""What searches know of earlier ones."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inherited",
        sa.Column("search_id", sa.Integer(), nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("architecture", sa.Text(), nullable=False),
        sa.Column("share", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.id"], name=op.f("fk_inherited_search_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("search_id", "place", name=op.f("pk_inherited")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("inherited")
