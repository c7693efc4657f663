"""Traces: the context in which a batch was created. Artifacts: files that handlers give to their users."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSON, UUID

revision = "0005"
down_revision = "0004"


_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _traces()
    _artifacts()


def _traces() -> None:
    op.add_column("batches", sa.Column("traceparent", sa.Text(), nullable=True))
    op.add_column("batches", sa.Column("tracestate", sa.Text(), nullable=True))


def _artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("id", UUID(as_uuid=True), primary_key=True),
        # processes of the version before delete batches, too, and know nothing of files: the row stays for those who do
        sa.Column("batch_id", UUID(as_uuid=True), sa.ForeignKey("batches.id", ondelete="SET NULL")),
        sa.Column("job_id", UUID(as_uuid=True)),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("content_type", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
    )
    op.create_index(
        "ix_artifacts_batch_id", "artifacts", ["batch_id"], postgresql_where=sa.text("batch_id IS NOT NULL")
    )
    op.create_index("ix_artifacts_job_id", "artifacts", ["job_id"], postgresql_where=sa.text("job_id IS NOT NULL"))
    op.create_index(
        "ix_artifacts_expires_at", "artifacts", ["expires_at"], postgresql_where=sa.text("batch_id IS NULL")
    )
    op.add_column("jobs", sa.Column("artifacts", JSON()))


def downgrade() -> None:
    op.drop_column("jobs", "artifacts")
    op.drop_table("artifacts")
    for column in ("tracestate", "traceparent"):
        op.drop_column("batches", column)
