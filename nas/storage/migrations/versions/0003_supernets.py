"""Trials that train a supernet: they have no architecture, but derive some."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
NEW = ("kind", "supernet", "derived", "derived_epochs")


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _rebuild(supernets=True)
        return
    op.add_column("trials", sa.Column("kind", sa.String(), server_default="evaluate", nullable=False))
    for name in NEW[1:]:
        op.add_column("trials", sa.Column(name, sa.JSON(), nullable=True))
    for name in ("architecture_id", "architecture"):
        op.alter_column("trials", name, nullable=True)


def downgrade() -> None:
    supernets = "SELECT id FROM trials WHERE architecture_id IS NULL"
    for table in ("measurements", "artifacts"):
        op.execute(f"DELETE FROM {table} WHERE trial_id IN ({supernets})")
    op.execute("DELETE FROM trials WHERE architecture_id IS NULL")
    if op.get_bind().dialect.name == "sqlite":
        _rebuild(supernets=False)
        return
    for name in NEW:
        op.drop_column("trials", name)
    for name in ("architecture_id", "architecture"):
        op.alter_column("trials", name, nullable=False)


def _rebuild(*, supernets: bool) -> None:
    """Make the table again, for SQLite alters no column, and with the same name, which shows in its schema.

    Rows of other tables go on referring to it by name and id: an upgrade does not enforce foreign keys. The
    sequence is kept too, so that ids of deleted trials are not given again.
    """
    connection = op.get_bind()
    last = connection.scalar(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'trials'"))
    op.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM trials")
    op.drop_table("trials")
    added: list[sa.schema.SchemaItem] = [
        sa.Column("kind", sa.String(), server_default="evaluate", nullable=False),
        *(sa.Column(name, sa.JSON(), nullable=True) for name in NEW[1:]),
    ]
    op.create_table(
        "trials",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("search_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("architecture_id", sa.Integer(), nullable=supernets),
        sa.Column("architecture", sa.Text(), nullable=supernets),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("ci95", sa.Double(), nullable=True),
        sa.Column("episodes", sa.Integer(), nullable=True),
        sa.Column("train_episodes", sa.Integer(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("parameters", sa.BigInteger(), nullable=True),
        sa.Column("macs", sa.BigInteger(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("split", sa.String(), nullable=True),
        sa.Column("classes", sa.String(), nullable=True),
        sa.Column("normalization", sa.String(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("reused", sa.Integer(), nullable=True),
        sa.Column("observed", sa.Integer(), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("finished_at", INSTANT, nullable=True),
        *(added if supernets else []),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.id"], name="fk_trials_search_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["architecture_id"], ["architectures.id"], name="fk_trials_architecture_id"),
        sa.PrimaryKeyConstraint("id", name="pk_trials"),
        sa.UniqueConstraint("search_id", "number", name="uq_trials_search_id_number"),
        sa.UniqueConstraint("search_id", "observed", name="uq_trials_search_id_observed"),
        sqlite_autoincrement=True,
    )
    columns = [column["name"] for column in sa.inspect(connection).get_columns("trials")]
    shared = ", ".join(name for name in columns if name not in NEW)
    op.execute(f"INSERT INTO trials ({shared}) SELECT {shared} FROM kept")
    op.execute("DROP TABLE kept")
    if last is not None:
        op.execute("DELETE FROM sqlite_sequence WHERE name = 'trials'")
        op.execute(f"INSERT INTO sqlite_sequence (name, seq) VALUES ('trials', {int(last)})")
    op.create_index("ix_trials_architecture_id", "trials", ["architecture_id"])
    op.create_index("ix_trials_search", "trials", ["search_id", "state", "score"])
    op.create_index(
        "ix_trials_leaderboard",
        "trials",
        ["state", "score", "parameters", "macs", "seconds", "search_id"],
        sqlite_where=sa.text("score IS NOT NULL"),
    )
