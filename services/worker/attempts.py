"""Attempts at jobs, as metrics and traces tell of them."""

from typing import Any

from services.worker.metrics import Outcome
from shared.job_updates import JobUpdate
from shared.jobs import JobStatus


def outcome_of(update: JobUpdate) -> Outcome:
    """What became of the attempt, in the words of the metrics and of traces."""
    if update.status is JobStatus.QUEUED:
        return "retried" if update.counts else "given_back"
    return _ENDED[update.status]


_ENDED: dict[JobStatus, Outcome] = {
    JobStatus.COMPLETED: "completed",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "cancelled",
}


def waited_for(batch: Any, row: Any) -> float | None:
    """Seconds for which a job that has just been started could have been; None: nobody knows since when."""
    if batch.after_batch is not None or (row.attempt > 1 and row.due is None):
        return None
    created = (row.id.int >> 80) / 1000  # a UUID of version 7 tells when it was made
    since = max([created, *(due.timestamp() for due in (row.due, batch.run_after) if due is not None)])
    return max(0.0, float(row.started_at.timestamp() - since))
