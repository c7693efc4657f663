"""An owner's unfinished batches can be listed however many are finished."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index(
        "ix_batches_active",
        "batches",
        ["owner", sa.literal_column("id DESC")],
        unique=False,
        postgresql_where=sa.text("finished_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_batches_active", "batches")
