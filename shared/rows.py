"""Rows of the database as the structs of the wire."""

from datetime import UTC, datetime
from typing import Any

from shared.events import Batch, Failure, Job, Line, Waiting, stamp
from shared.jobs import BatchStatus, Counts, JobStatus, batch_progress
from shared.updates import Items


def batch_of(row: Any) -> Batch:
    counts = counts_of(row)
    return Batch(
        batch_id=str(row.id),
        kind=row.kind,
        title=row.title,
        owner=row.owner,
        status=BatchStatus(row.status),
        version=row.version,
        progress=batch_progress(row.progress_sum, row.total),
        counts=counts,
        waiting=_waiting(row),
        eta_seconds=None,
        cancel_requested=row.cancel_requested,
        metadata=row.metadata,
        summary=row.summary,
        created_at=stamp(row.created_at),
        started_at=_maybe(row.started_at),
        finished_at=_maybe(row.finished_at),
        eta_low=None,
        eta_high=None,
        open=row.open,
        run_after=_maybe(row.run_after),
        after=None if row.after_batch is None else str(row.after_batch),
        expires_at=_maybe(row.expires_at),
    )


def _waiting(row: Any) -> Waiting | None:
    """Why nothing moves, as far as the batch's own row tells."""
    if row.status == BatchStatus.PAUSED:
        return Waiting("paused")
    if row.next_due is not None and row.next_due > datetime.now(UTC):
        return Waiting("delayed", until=stamp(row.next_due))
    return None


def counts_of(row: Any) -> Counts:
    return Counts(row.queued, row.processing, row.completed, row.failed, row.cancelled, row.total)


def job_of(row: Any) -> Job:
    return Job(
        id=str(row.id),
        position=row.position,
        name=row.name,
        status=JobStatus(row.status),
        progress=row.progress,
        step=row.step,
        message=row.message,
        items=None if row.items_total is None else Items(row.items_done, row.items_failed, row.items_total),
        attempt=row.attempt,
        cancel_requested=row.cancel_requested,
        run_after=_maybe(row.run_after),
        error=None if row.error_code is None else Failure(row.error_code, row.error_message),
        started_at=_maybe(row.started_at),
        finished_at=_maybe(row.finished_at),
        metadata=row.metadata or {},
    )


def line_of(row: Any) -> Line:
    return Line(str(row.job_id), row.attempt, row.n, stamp(row.at), row.level, row.text)


def _maybe(moment: datetime | None) -> str | None:
    return None if moment is None else stamp(moment)
