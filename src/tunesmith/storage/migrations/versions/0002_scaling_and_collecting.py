"""How a deployment follows its load, which conversations it keeps, and the adapters it serves beside its model."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deployments", sa.Column("autoscale", sa.JSON(), nullable=True))
    op.add_column("deployments", sa.Column("data_collector", sa.JSON(), nullable=True))
    op.add_column("deployments", sa.Column("adapters", sa.JSON(), nullable=True))
