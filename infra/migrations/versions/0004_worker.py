"""Fair claims, schedules, open batches, reports from elsewhere, estimates, workers that are seen, listeners."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from infra.migrations.claim import CLAIM

revision = "0004"
down_revision = "0003"

_TIME = sa.DateTime(timezone=True)
_JSON = postgresql.JSONB(astext_type=sa.Text())
_JSON_TEXT = postgresql.JSON(astext_type=sa.Text())
_READY = "ready AND NOT paused AND after_batch IS NULL"


def upgrade() -> None:
    _batches_and_jobs()
    _lanes()
    _estimates()
    _workers()
    _listeners()
    _claims()


def _batches_and_jobs() -> None:
    op.add_column("batches", sa.Column("open", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("batches", sa.Column("run_after", _TIME, nullable=True))
    op.add_column("batches", sa.Column("after_batch", sa.UUID(), nullable=True))
    op.add_column("batches", sa.Column("after_any", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("batches", sa.Column("held", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("batches", sa.Column("expires_at", _TIME, nullable=True))
    op.add_column("batches", sa.Column("cancel_reason", sa.Text(), nullable=True))
    op.add_column("batches", sa.Column("pace", _JSON, nullable=True))
    op.add_column("jobs", sa.Column("metadata", _JSON_TEXT, nullable=True))
    op.add_column("jobs", sa.Column("checkpoint", _JSON_TEXT, nullable=True))
    op.add_column("jobs", sa.Column("reported", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("reported_run", sa.UUID(), nullable=True))


def _lanes() -> None:
    op.add_column("lanes", sa.Column("owner", sa.Text(), nullable=True))
    op.add_column("lanes", sa.Column("kind", sa.Text(), nullable=True))
    op.add_column("lanes", sa.Column("ready", sa.Boolean(), server_default=sa.true(), nullable=False))
    op.add_column("lanes", sa.Column("ready_at", _TIME, nullable=True))
    op.add_column("lanes", sa.Column("after_batch", sa.UUID(), nullable=True))
    op.add_column("lanes", sa.Column("expires_at", _TIME, nullable=True))
    op.execute("UPDATE lanes l SET owner = b.owner, kind = b.kind FROM batches b WHERE b.id = l.batch_id")
    op.alter_column("lanes", "owner", nullable=False)
    op.alter_column("lanes", "kind", nullable=False)
    op.alter_column("lanes", "ready", server_default=None)
    op.drop_index("ix_lanes_order", "lanes")
    op.create_index(
        "ix_lanes_ready",
        "lanes",
        ["queue", sa.literal_column("priority DESC"), "kind", "owner", "batch_id"],
        postgresql_where=sa.text(_READY),
    )
    op.create_index(
        "ix_lanes_ready_at",
        "lanes",
        ["queue", "ready_at"],
        postgresql_where=sa.text("NOT ready AND ready_at IS NOT NULL"),
    )
    op.create_index(
        "ix_lanes_after_batch", "lanes", ["after_batch"], postgresql_where=sa.text("after_batch IS NOT NULL")
    )
    op.create_index("ix_lanes_expires_at", "lanes", ["expires_at"], postgresql_where=sa.text("expires_at IS NOT NULL"))
    op.create_table(
        "queue_turns",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("queue", "priority", name=op.f("pk_queue_turns")),
    )
    op.create_table(
        "owner_turns",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.UUID(), nullable=False),
        sa.PrimaryKeyConstraint("queue", "priority", "owner", name=op.f("pk_owner_turns")),
    )
    op.create_table(
        "kind_turns",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("due", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_kind_turns")),
    )


def _claims() -> None:
    op.execute(CLAIM)


def _estimates() -> None:
    op.create_table(
        "paces",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("pace", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_paces")),
    )


def _workers() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("kinds", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("threads", sa.Integer(), nullable=False),
        sa.Column("running", sa.Integer(), nullable=False),
        sa.Column("job_ids", sa.ARRAY(sa.UUID()), nullable=False),
        sa.Column("abandoned", sa.Integer(), nullable=False),
        sa.Column("memory", sa.BigInteger(), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column("drain_requested", sa.Boolean(), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_index("ix_workers_queue", "workers", ["queue"])


def _listeners() -> None:
    op.create_table(
        "listeners",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_listeners")),
    )
    op.create_table(
        "outbox",
        sa.Column("batch_id", sa.UUID(), nullable=False),
        sa.Column("listener", sa.Text(), nullable=False),
        sa.Column("delivered", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("due_at", _TIME, nullable=False),
        sa.Column("token", sa.UUID(), nullable=True),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_outbox_batch_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("batch_id", "listener", name=op.f("pk_outbox")),
    )
    op.create_index("ix_outbox_due_at", "outbox", ["listener", "due_at"])


def downgrade() -> None:
    op.execute("DROP FUNCTION headway_claim")
    op.drop_table("outbox")
    op.drop_table("listeners")
    op.drop_table("workers")
    op.drop_table("paces")
    op.drop_table("kind_turns")
    op.drop_table("owner_turns")
    op.drop_table("queue_turns")
    for index in ("ix_lanes_expires_at", "ix_lanes_after_batch", "ix_lanes_ready_at", "ix_lanes_ready"):
        op.drop_index(index, "lanes")
    for column in ("expires_at", "after_batch", "ready_at", "ready", "kind", "owner"):
        op.drop_column("lanes", column)
    op.create_index("ix_lanes_order", "lanes", ["queue", sa.literal_column("priority DESC"), "batch_id"])
    for column in ("reported_run", "reported", "checkpoint", "metadata"):
        op.drop_column("jobs", column)
    for column in ("pace", "cancel_reason", "expires_at", "held", "after_any", "after_batch", "run_after", "open"):
        op.drop_column("batches", column)
