"""Rows of the database as the structs of the wire."""

import re
from datetime import UTC, datetime
from typing import Any

from msgspec import UNSET, convert

from shared.eta import estimate
from shared.events import Artifact, Batch, Failure, Job, Line, Waiting, stamp
from shared.jobs import BatchStatus, Counts, JobStatus, batch_progress
from shared.updates import Items

_TOLD = re.compile(r"(?P<code>(?:[^\\:]|\\.)*): (?P<message>.*)", re.DOTALL)


def batch_of(row: Any) -> Batch:
    now = datetime.now(UTC)
    counts, eta = counts_of(row), estimate(row, now)
    return Batch(
        batch_id=str(row.id),
        kind=row.kind,
        title=row.title,
        owner=row.owner,
        status=BatchStatus(row.status),
        version=row.version,
        progress=batch_progress(row.progress_sum, row.total),
        counts=counts,
        waiting=waiting_of(row, now),
        eta_seconds=None if eta is None else eta.seconds,
        cancel_requested=row.cancel_requested,
        metadata=row.metadata,
        summary=row.summary,
        created_at=stamp(row.created_at),
        started_at=_maybe(row.started_at),
        finished_at=_maybe(row.finished_at),
        eta_low=None if eta is None else eta.low,
        eta_high=None if eta is None else eta.high,
        open=row.open,
        run_after=_maybe(row.run_after),
        after=None if row.after_batch is None else str(row.after_batch),
        expires_at=_maybe(row.expires_at),
    )


def waiting_of(row: Any, now: datetime) -> Waiting | None:
    """Why nothing moves, as far as the batch's own row tells."""
    if row.status == BatchStatus.PAUSED:
        return Waiting("paused")
    if row.finished_at is not None:
        return None
    until = max((time for time in (row.run_after, row.next_due) if time is not None and time > now), default=None)
    after = str(row.after_batch) if row.held else None
    return None if until is None and after is None else Waiting("delayed", until=_maybe(until), after=after)


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
        artifacts=convert(row.artifacts, list[Artifact]) if row.artifacts else UNSET,
    )


def failure_text(failure: Failure) -> str:
    """How a transition's message tells of it: `code: message`, and back again by `failure_of`."""
    code = failure.code.replace("\\", "\\\\").replace(":", "\\:")
    return f"{code}: {failure.message}"


def failure_of(message: str) -> Failure:
    match = _TOLD.fullmatch(message)
    if match is None:
        return Failure("exception", message)
    return Failure(re.sub(r"\\(.)", r"\1", match["code"]), match["message"])


def line_of(row: Any) -> Line:
    return Line(str(row.job_id), row.attempt, row.n, stamp(row.at), row.level, row.text)


def _maybe(moment: datetime | None) -> str | None:
    return None if moment is None else stamp(moment)
