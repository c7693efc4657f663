"""Making batches straight in the database, and checking that what became of them is possible at all."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from shared import models
from shared.changes import Change
from shared.channels import Frame
from shared.creation import NewJob, create_batch
from shared.jobs import FINAL_BATCH, JOB_TRANSITIONS, JobStatus, batch_status, contribution
from shared.kinds import KINDS
from shared.kinds.kind import Kind
from shared.rows import counts_of

OWNER = "anna"


def make_batch(
    engine: sa.Engine, jobs: int = 1, kind: str | Kind = "rehearsal", *, params: Any = None, **options: Any
) -> UUID:
    """A batch of equal jobs; its id."""
    kind = KINDS[kind] if isinstance(kind, str) else kind
    raw = msgspec.Raw(msgspec.json.encode(params or {}))
    options = {"owner": OWNER, "title": "a test"} | options
    with engine.begin() as connection:
        row = create_batch(connection, kind, [NewJob(f"job {n}", raw) for n in range(jobs)], **options)
    return UUID(str(row.id))


def cancel(engine: sa.Engine, batch_id: UUID) -> Frame | None:
    with engine.begin() as connection:
        change = Change(connection, batch_id)
        change.cancel()
        return change.close()


def batch_row(engine: sa.Engine, batch_id: UUID) -> sa.Row[Any]:
    with engine.connect() as connection:
        return connection.execute(sa.select(models.batches).where(models.batches.c.id == batch_id)).one()


def job_rows(engine: sa.Engine, batch_id: UUID) -> list[sa.Row[Any]]:
    query = sa.select(models.jobs).where(models.jobs.c.batch_id == batch_id).order_by(models.jobs.c.position)
    with engine.connect() as connection:
        return list(connection.execute(query))


def transition_rows(engine: sa.Engine, batch_id: UUID) -> list[sa.Row[Any]]:
    table = models.transitions
    with engine.connect() as connection:
        return list(connection.execute(sa.select(table).where(table.c.batch_id == batch_id).order_by(table.c.id)))


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """What `condition` returns, once that is true."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(0.02)
    return value


def wait_finished(engine: sa.Engine, batch_id: UUID, seconds: float = 30) -> sa.Row[Any]:
    row: sa.Row[Any] = wait_for(lambda: _finished(engine, batch_id), "the batch to finish", seconds)
    return row


def _finished(engine: sa.Engine, batch_id: UUID) -> sa.Row[Any] | None:
    row = batch_row(engine, batch_id)
    return row if row.finished_at is not None else None


def assert_consistent(engine: sa.Engine, batch_id: UUID) -> None:
    """Counters are what counting gives, and every job's history is one that the rules allow."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        batch = connection.execute(sa.select(models.batches).where(models.batches.c.id == batch_id)).one()
        jobs = list(connection.execute(sa.select(models.jobs).where(models.jobs.c.batch_id == batch_id)))
        table = models.transitions
        steps = list(connection.execute(sa.select(table).where(table.c.batch_id == batch_id).order_by(table.c.id)))
        lines = connection.execute(
            sa.text("SELECT job_id, min(n), max(n), count(*) FROM log_lines WHERE batch_id = :id GROUP BY job_id"),
            {"id": batch_id},
        ).all()
        counted = sa.select(sa.func.count()).where(models.log_lines.c.batch_id == batch_id)
        line_count = connection.execute(counted).scalar_one()
        lanes = connection.execute(sa.select(models.lanes).where(models.lanes.c.batch_id == batch_id)).all()
    states = Counter(job.status for job in jobs)
    for status in JobStatus:
        assert getattr(batch, status.lower()) == states[status], (status, states)
    assert batch.total == len(jobs)
    assert batch.progress_sum == sum(contribution(JobStatus(job.status), job.progress) for job in jobs)
    assert batch.failed_items == sum(job.items_failed or 0 for job in jobs)
    assert batch.line_count == line_count
    assert batch.delayed == sum(job.status == JobStatus.QUEUED and job.run_after is not None for job in jobs)
    assert [lane.paused for lane in lanes] == ([] if batch.status in FINAL_BATCH else [batch.paused])
    leased = sum(job.lease_token is not None for job in jobs)
    if batch.concurrency is None or leased < batch.concurrency:
        waits = any(job.status == JobStatus.QUEUED and job.lease_token is None for job in jobs)
        assert not waits or lanes[0].ready or lanes[0].ready_at is not None, "no claim would find what is queued"
    assert batch.version >= max((job.version for job in jobs), default=1)
    assert sorted(job.position for job in jobs) == list(range(len(jobs)))
    assert all(lane.after_batch == (batch.after_batch if batch.held else None) for lane in lanes)
    assert batch.status == batch_status(
        counts_of(batch),
        started=batch.started_at is not None,
        paused=batch.paused,
        cancel_requested=batch.cancel_requested,
        failed_items=batch.failed_items,
        still_open=batch.open,
    )
    last = {job.id: job.last_line for job in jobs}
    for job_id, first, newest, count in lines:
        assert (first, newest) == (1, count), "log lines have gaps"
        assert newest == last[job_id]
    reached: dict[UUID, JobStatus] = dict.fromkeys((job.id for job in jobs), JobStatus.QUEUED)
    attempts: Counter[UUID] = Counter()
    for step in steps:
        if step.job_id is None:
            continue
        old, new = JobStatus(step.old_status), JobStatus(step.new_status)
        assert reached[step.job_id] is old, f"{step} follows {reached[step.job_id]}"
        assert new in JOB_TRANSITIONS[old], step
        if new is JobStatus.PROCESSING:
            attempts[step.job_id] += 1
        assert step.attempt == attempts[step.job_id], step
        reached[step.job_id] = new
    for job in jobs:
        assert reached[job.id] == job.status
        assert attempts[job.id] == job.attempt
        assert (job.lease_token is None) or job.status in ("QUEUED", "PROCESSING")
