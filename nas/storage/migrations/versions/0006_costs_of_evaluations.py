"""Costs of evaluations beyond weights and operations, as trials have them."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ADDED: dict[str, sa.types.TypeEngine[Any]] = {
    "activations": sa.BigInteger(),
    "latency": sa.Double(),
    "latency_batch": sa.Double(),
}


def upgrade() -> None:
    for name, kind in ADDED.items():
        op.add_column("evaluations", sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    for name in ADDED:
        op.drop_column("evaluations", name)
