"""The tables. What they mean is in docs/decisions and in the comments here; how they are used, in shared/queries."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSON, JSONB, UUID

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

_TIME = sa.DateTime(timezone=True)
_JOB_STATES = "status IN ('QUEUED', 'PROCESSING', 'COMPLETED', 'FAILED', 'CANCELLED')"
_BATCH_STATES = "status IN ('QUEUED', 'PROCESSING', 'PAUSED', 'COMPLETED', 'PARTIAL', 'FAILED', 'CANCELLED')"

installation = sa.Table(
    "installation",
    metadata,
    # one row; renewing its secret begins a new epoch
    sa.Column("singleton", sa.Boolean, sa.CheckConstraint("singleton", name="one_row"), primary_key=True),
    sa.Column("secret", sa.Text, nullable=False),
)

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", UUID(as_uuid=True), primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("status", sa.Text, sa.CheckConstraint(_BATCH_STATES, name="status"), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("concurrency", sa.Integer),
    sa.Column("metadata", JSONB, nullable=False),
    sa.Column("summary", JSONB),
    # counters: right at every version, moved by the difference that was really made
    sa.Column("queued", sa.Integer, nullable=False),
    sa.Column("processing", sa.Integer, nullable=False),
    sa.Column("completed", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("cancelled", sa.Integer, nullable=False),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("progress_sum", sa.BigInteger, nullable=False),  # see jobs.contribution
    sa.Column("failed_items", sa.BigInteger, nullable=False),
    sa.Column("line_count", sa.BigInteger, nullable=False),
    sa.Column("delayed", sa.Integer, nullable=False),  # of the queued: those that have a time before which they rest
    sa.Column("next_due", _TIME),  # the earliest of these times, when nothing but them is left to do
    sa.Column("paused", sa.Boolean, nullable=False),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("open", sa.Boolean, nullable=False, server_default=sa.false()),  # to more jobs: it does not finish
    # when it may begin, and by when it has to have ended
    sa.Column("run_after", _TIME),
    sa.Column("after_batch", UUID(as_uuid=True)),  # no foreign key: that one may be deleted first
    sa.Column("after_any", sa.Boolean, nullable=False, server_default=sa.false()),  # however that one ends
    sa.Column("held", sa.Boolean, nullable=False, server_default=sa.false()),  # that end has not been seen yet
    sa.Column("expires_at", _TIME),
    sa.Column("cancel_reason", sa.Text),  # why its cancel was requested, for the history
    sa.Column("pace", JSONB),  # how long its jobs took: see pace.py
    sa.Column("traceparent", sa.Text),  # of the request that created it, as W3C's trace context writes it
    sa.Column("tracestate", sa.Text),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("started_at", _TIME),
    sa.Column("finished_at", _TIME),
    # a row that is rewritten at every change: room on its page keeps those rewrites out of the indexes
    postgresql_with={"fillfactor": "30"},
)
sa.Index("ix_batches_owner_id", batches.c.owner, batches.c.id.desc())
sa.Index(
    "ix_batches_active",
    batches.c.owner,
    batches.c.id.desc(),
    postgresql_where=sa.text("finished_at IS NULL"),
)
sa.Index("ix_batches_finished_at", batches.c.finished_at, postgresql_where=sa.text("finished_at IS NOT NULL"))

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", UUID(as_uuid=True), primary_key=True),
    sa.Column("batch_id", UUID(as_uuid=True), sa.ForeignKey("batches.id", ondelete="CASCADE"), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("params", JSONB, nullable=False),
    sa.Column("status", sa.Text, sa.CheckConstraint(_JOB_STATES, name="status"), nullable=False),
    sa.Column("progress", sa.Integer, nullable=False),
    sa.Column("step", sa.Text),
    sa.Column("message", sa.Text),
    sa.Column("items_done", sa.Integer),
    sa.Column("items_failed", sa.Integer),
    sa.Column("items_total", sa.Integer),
    sa.Column("attempt", sa.Integer, nullable=False),  # rises at every start, never repeats
    sa.Column("failures", sa.Integer, nullable=False),  # what retries are limited by
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("run_after", _TIME),
    sa.Column("lease_token", UUID(as_uuid=True)),  # reserved (QUEUED) or running (PROCESSING) under this token
    sa.Column("lease_until", _TIME),
    sa.Column("error_code", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.Column("result", JSONB),
    # its handler's own, shown while it runs; kept as text, which viewers get as it is
    sa.Column("metadata", JSON(none_as_null=True)),
    sa.Column("checkpoint", JSON(none_as_null=True)),  # what its handler gave for the next attempt
    sa.Column("artifacts", JSON(none_as_null=True)),  # as readers see them; null: none
    # of a job of the kind `external`: the last report that was accepted, and whose: the run may be over
    sa.Column("reported", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("reported_run", UUID(as_uuid=True)),
    sa.Column("last_line", sa.BigInteger, nullable=False),
    sa.Column("started_at", _TIME),  # of the latest attempt
    sa.Column("finished_at", _TIME),
    sa.Column("version", sa.BigInteger, nullable=False),
    postgresql_with={"fillfactor": "80"},
)
sa.Index("ix_jobs_batch_id_version", jobs.c.batch_id, jobs.c.version)
sa.Index("uq_jobs_batch_id_position", jobs.c.batch_id, jobs.c.position, unique=True)
sa.Index(
    "ix_jobs_claimable",
    jobs.c.batch_id,
    jobs.c.position,
    postgresql_where=sa.text("status = 'QUEUED' AND lease_token IS NULL AND run_after IS NULL"),
)
sa.Index(
    "ix_jobs_delayed",
    jobs.c.batch_id,
    jobs.c.run_after,
    postgresql_where=sa.text("status = 'QUEUED' AND lease_token IS NULL AND run_after IS NOT NULL"),
)
sa.Index("ix_jobs_leased", jobs.c.batch_id, postgresql_where=sa.text("lease_token IS NOT NULL"))

lanes = sa.Table(
    "lanes",
    metadata,
    # what a claim looks at: one narrow row for each unfinished batch. It is locked last, after the batch and its jobs.
    sa.Column("batch_id", UUID(as_uuid=True), sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("concurrency", sa.Integer),
    sa.Column("paused", sa.Boolean, nullable=False),
    # Whether there may be something to claim. A claim that finds nothing takes it away; whoever makes a job claimable
    # sets it, always, as the last thing before the commit.
    sa.Column("ready", sa.Boolean, nullable=False),
    sa.Column("ready_at", _TIME),  # when to look again at one that is not ready; null: when somebody sets it
    sa.Column("after_batch", UUID(as_uuid=True)),  # held back until that one has ended
    sa.Column("expires_at", _TIME),
)
sa.Index(
    "ix_lanes_ready",
    lanes.c.queue,
    lanes.c.priority.desc(),
    lanes.c.kind,
    lanes.c.owner,
    lanes.c.batch_id,
    postgresql_where=sa.text("ready AND NOT paused AND after_batch IS NULL"),
)
sa.Index(
    "ix_lanes_ready_at",
    lanes.c.queue,
    lanes.c.ready_at,
    postgresql_where=sa.text("NOT ready AND ready_at IS NOT NULL"),
)
sa.Index("ix_lanes_after_batch", lanes.c.after_batch, postgresql_where=sa.text("after_batch IS NOT NULL"))
sa.Index("ix_lanes_expires_at", lanes.c.expires_at, postgresql_where=sa.text("expires_at IS NOT NULL"))

queue_turns = sa.Table(
    "queue_turns",
    metadata,
    # whose turn it is: the owner that a claim of this queue served last, for each priority
    sa.Column("queue", sa.Text, primary_key=True),
    sa.Column("priority", sa.Integer, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
)

owner_turns = sa.Table(
    "owner_turns",
    metadata,
    # which of an owner's batches a claim served last; gone once the queue has nothing more
    sa.Column("queue", sa.Text, primary_key=True),
    sa.Column("priority", sa.Integer, primary_key=True),
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("batch_id", UUID(as_uuid=True), nullable=False),  # no foreign key: that one may be gone
)

kind_turns = sa.Table(
    "kind_turns",
    metadata,
    # for kinds with a rate: when the next start is due if they follow one another evenly (GCRA's theoretical arrival)
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("due", _TIME, nullable=False),
)

paces = sa.Table(
    "paces",
    metadata,
    # how long jobs of a kind took lately: what an estimate goes by before a batch has a history of its own
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("pace", JSONB, nullable=False),
)

workers = sa.Table(
    "workers",
    metadata,
    # one row for each worker process that is heard of
    sa.Column("id", UUID(as_uuid=True), primary_key=True),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("kinds", sa.ARRAY(sa.Text), nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("threads", sa.Integer, nullable=False),
    sa.Column("running", sa.Integer, nullable=False),
    sa.Column("job_ids", sa.ARRAY(UUID(as_uuid=True)), nullable=False),  # those that run
    sa.Column("abandoned", sa.Integer, nullable=False),
    sa.Column("memory", sa.BigInteger, nullable=False),  # bytes
    sa.Column("draining", sa.Boolean, nullable=False),  # it takes no more jobs
    sa.Column("drain_requested", sa.Boolean, nullable=False),
    sa.Column("started_at", _TIME, nullable=False),
    sa.Column("seen_at", _TIME, nullable=False),
    # rewritten every two seconds: never an index, therefore, with what is rewritten then
    postgresql_with={"fillfactor": "50"},
)
sa.Index("ix_workers_queue", workers.c.queue)

listeners = sa.Table(
    "listeners",
    metadata,
    # who is told of transitions, from the moment at which a worker that has it first started
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("seen_at", _TIME, nullable=False),
)

outbox = sa.Table(
    "outbox",
    metadata,
    # what a listener is still to be told of a batch: its transitions after `delivered`, up to `last`
    sa.Column("batch_id", UUID(as_uuid=True), sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    # no foreign key: each new row would lock the listener's, which all changes share
    sa.Column("listener", sa.Text, primary_key=True),
    sa.Column("delivered", sa.BigInteger, nullable=False),
    sa.Column("last", sa.BigInteger, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("due_at", _TIME, nullable=False),  # not before: a lease while it is being told, a backoff after a failure
    sa.Column("token", UUID(as_uuid=True)),  # of who tells it now
)
sa.Index("ix_outbox_due_at", outbox.c.listener, outbox.c.due_at)

log_lines = sa.Table(
    "log_lines",
    metadata,
    sa.Column("job_id", UUID(as_uuid=True), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("n", sa.BigInteger, primary_key=True),
    sa.Column("batch_id", UUID(as_uuid=True), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("at", _TIME, nullable=False),
    sa.Column("level", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
)
sa.Index("ix_log_lines_batch_id_version", log_lines.c.batch_id, log_lines.c.version, log_lines.c.at)

transitions = sa.Table(
    "transitions",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("batch_id", UUID(as_uuid=True), sa.ForeignKey("batches.id", ondelete="CASCADE"), nullable=False),
    sa.Column("job_id", UUID(as_uuid=True)),  # null: the batch itself
    sa.Column("old_status", sa.Text),  # null: created
    sa.Column("new_status", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer),
    sa.Column("at", _TIME, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),  # a code: created, started, completed, lease_expired, …
    sa.Column("message", sa.Text),  # for people, where the code does not say it all
)
sa.Index("ix_transitions_batch_id_id", transitions.c.batch_id, transitions.c.id)
sa.Index("ix_transitions_job_id", transitions.c.job_id, postgresql_where=sa.text("job_id IS NOT NULL"))

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("id", UUID(as_uuid=True), primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("expires_at", _TIME),  # null once a batch uses it
)
sa.Index("ix_uploads_expires_at", uploads.c.expires_at, postgresql_where=sa.text("expires_at IS NOT NULL"))

upload_uses = sa.Table(
    "upload_uses",
    metadata,
    # which batches name an upload: with the last of them it may go
    sa.Column("batch_id", UUID(as_uuid=True), sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("upload_id", UUID(as_uuid=True), sa.ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True),
)
sa.Index("ix_upload_uses_upload_id", upload_uses.c.upload_id)

artifacts = sa.Table(
    "artifacts",
    metadata,
    # Files that handlers gave. A row is there before its file, and belongs to no batch until the update that gave it is
    # committed; to none again once another took its place or the batch is deleted. Then file and row go, in this order.
    sa.Column("id", UUID(as_uuid=True), primary_key=True),
    sa.Column("batch_id", UUID(as_uuid=True), sa.ForeignKey("batches.id", ondelete="SET NULL")),
    sa.Column("job_id", UUID(as_uuid=True)),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("expires_at", _TIME, nullable=False),  # for one that belongs to no batch: not before, it may be given yet
)
sa.Index("ix_artifacts_batch_id", artifacts.c.batch_id, postgresql_where=sa.text("batch_id IS NOT NULL"))
sa.Index("ix_artifacts_job_id", artifacts.c.job_id, postgresql_where=sa.text("job_id IS NOT NULL"))
sa.Index("ix_artifacts_expires_at", artifacts.c.expires_at, postgresql_where=sa.text("batch_id IS NULL"))

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),  # a digest of what was asked for
    sa.Column("batch_id", UUID(as_uuid=True), nullable=False),  # no foreign key: it outlives the batch
    sa.Column("created_at", _TIME, nullable=False),
)
sa.Index("ix_idempotency_keys_created_at", idempotency_keys.c.created_at)
