"""Evaluations at a full budget, and artifacts that belong to one of them."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
KEPT = ("trial_id", "kind", "uri", "sha256", "bytes", "created_at")
"""What an artifact is in both revisions."""


def upgrade() -> None:
    op.create_table(
        "evaluations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("architecture_id", sa.Integer(), nullable=False),
        sa.Column("architecture", sa.Text(), nullable=False),
        sa.Column("settings", sa.String(), nullable=False),
        sa.Column("protocol", sa.String(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("space", sa.String(), nullable=False),
        sa.Column("tasks", sa.String(), nullable=False),
        sa.Column("task_label", sa.String(), nullable=False),
        sa.Column("learner", sa.String(), nullable=False),
        sa.Column("origin_search_id", sa.Integer(), nullable=True),
        sa.Column("origin_search", sa.String(), nullable=True),
        sa.Column("origin_trial", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("validation_score", sa.Double(), nullable=True),
        sa.Column("validation_ci95", sa.Double(), nullable=True),
        sa.Column("test_score", sa.Double(), nullable=True),
        sa.Column("test_ci95", sa.Double(), nullable=True),
        sa.Column("test_episodes", sa.Integer(), nullable=True),
        sa.Column("split", sa.String(), nullable=True),
        sa.Column("classes", sa.String(), nullable=True),
        sa.Column("normalization", sa.String(), nullable=True),
        sa.Column("parameters", sa.BigInteger(), nullable=True),
        sa.Column("macs", sa.BigInteger(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("best_episodes", sa.Integer(), nullable=True),
        sa.Column("train_episodes", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.Column("heartbeat_at", INSTANT, nullable=True),
        sa.Column("host", sa.String(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["architecture_id"], ["architectures.id"], name="fk_evaluations_architecture_id"
        ),
        sa.ForeignKeyConstraint(
            ["origin_search_id"],
            ["searches.id"],
            name="fk_evaluations_origin_search_id",
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_evaluations"),
        sa.UniqueConstraint(
            "architecture_id", "settings", "seed", name="uq_evaluations_architecture_id_settings_seed"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_evaluations_origin_search_id", "evaluations", ["origin_search_id"])
    op.create_table(
        "evaluation_measurements",
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["evaluation_id"],
            ["evaluations.id"],
            name="fk_evaluation_measurements_evaluation_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "metric", "step", name="pk_evaluation_measurements"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "evaluation_scores",
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.Column("episode", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"],
            ["evaluations.id"],
            name="fk_evaluation_scores_evaluation_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "episode", name="pk_evaluation_scores"),
        sqlite_with_rowid=False,
    )
    rows = _take("artifacts", op.get_bind())
    _artifacts(
        sa.Column("trial_id", sa.Integer(), nullable=True),
        sa.Column("evaluation_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.id"], name="fk_artifacts_evaluation_id", ondelete="CASCADE"
        ),
        sa.CheckConstraint("(trial_id IS NULL) <> (evaluation_id IS NULL)", name=op.f("ck_artifacts_owner")),
        rows=rows,
    )
    op.create_index("ix_artifacts_evaluation_id", "artifacts", ["evaluation_id"])


def downgrade() -> None:
    rows = [row for row in _take("artifacts", op.get_bind()) if row["trial_id"] is not None]
    _artifacts(sa.Column("trial_id", sa.Integer(), nullable=False), rows=rows)
    for table in ("evaluation_scores", "evaluation_measurements", "evaluations"):
        op.drop_table(table)


def _take(name: str, connection: sa.Connection) -> list[dict[str, Any]]:
    """Drop the table, and return its rows: SQLite would rename a changed copy, which shows in its schema."""
    table = sa.table(
        name, *(sa.column(column, INSTANT if column == "created_at" else None) for column in KEPT)
    )
    rows = [dict(row) for row in connection.execute(sa.select(table).order_by(sa.text("id"))).mappings()]
    op.drop_table(name)
    return rows


def _artifacts(*parts: sa.schema.SchemaItem, rows: Sequence[dict[str, Any]]) -> None:
    table = op.create_table(
        "artifacts",
        sa.Column("id", sa.Integer(), nullable=False),
        *parts,
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["trial_id"], ["trials.id"], name="fk_artifacts_trial_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_artifacts"),
    )
    op.bulk_insert(table, list(rows))
    op.create_index("ix_artifacts_trial_id", "artifacts", ["trial_id"])
