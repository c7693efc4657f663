"""Pausing, delays that can be seen, deletion and retention, idempotent creation."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_READY = "status = 'QUEUED' AND lease_token IS NULL AND run_after IS NULL"
_DELAYED = "status = 'QUEUED' AND lease_token IS NULL AND run_after IS NOT NULL"


def upgrade() -> None:
    op.add_column("batches", sa.Column("delayed", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("batches", sa.Column("next_due", sa.DateTime(timezone=True), nullable=True))
    op.alter_column("batches", "delayed", server_default=None)
    op.execute("""
        UPDATE batches b SET delayed = d.jobs FROM (
            SELECT j.batch_id, count(*) AS jobs FROM jobs j
            WHERE j.status = 'QUEUED' AND j.run_after IS NOT NULL GROUP BY j.batch_id
        ) d WHERE d.batch_id = b.id
    """)
    op.create_index(
        "ix_batches_finished_at",
        "batches",
        ["finished_at"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.add_column("lanes", sa.Column("paused", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.alter_column("lanes", "paused", server_default=None)
    op.drop_index("ix_jobs_claimable", "jobs")
    op.create_index(
        "ix_jobs_claimable", "jobs", ["batch_id", "position"], unique=False, postgresql_where=sa.text(_READY)
    )
    op.create_index(
        "ix_jobs_delayed", "jobs", ["batch_id", "run_after"], unique=False, postgresql_where=sa.text(_DELAYED)
    )
    op.create_table(
        "upload_uses",
        sa.Column("batch_id", sa.UUID(), nullable=False),
        sa.Column("upload_id", sa.UUID(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_upload_uses_batch_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["uploads.id"], name=op.f("fk_upload_uses_upload_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch_id", "upload_id", name=op.f("pk_upload_uses")),
    )
    op.create_index("ix_upload_uses_upload_id", "upload_uses", ["upload_id"], unique=False)
    # batches that are there already: the only kind that names uploads has named them so
    op.execute("""
        INSERT INTO upload_uses (batch_id, upload_id)
        SELECT DISTINCT j.batch_id, u.id FROM jobs j JOIN uploads u ON u.id::text = lower(j.params ->> 'uploadId')
    """)
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("batch_id", sa.UUID(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False)
