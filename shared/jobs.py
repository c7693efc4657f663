"""The states of jobs and batches, and the rules by which a batch's state follows from its counters."""

from enum import StrEnum

from msgspec import Struct


class JobStatus(StrEnum):
    QUEUED = "QUEUED"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class BatchStatus(StrEnum):
    QUEUED = "QUEUED"
    PROCESSING = "PROCESSING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


FINAL_JOB = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})
FINAL_BATCH = frozenset({BatchStatus.COMPLETED, BatchStatus.PARTIAL, BatchStatus.FAILED, BatchStatus.CANCELLED})

# What may follow what. A job that waits for its next attempt, was given back or is retried on request is QUEUED again.
JOB_TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.PROCESSING, JobStatus.CANCELLED}),
    JobStatus.PROCESSING: FINAL_JOB | {JobStatus.QUEUED},
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset({JobStatus.QUEUED}),
    JobStatus.CANCELLED: frozenset({JobStatus.QUEUED}),
}

RUNNING_MAX = 99
"""The most that a job may show before it is final, in percent."""


class Counts(Struct, rename="camel"):
    """How many jobs of a batch are in each state; `queued` includes those that wait for another attempt."""

    queued: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    total: int = 0

    def move(self, old: JobStatus, new: JobStatus, jobs: int = 1) -> None:
        """Count `jobs` jobs from one state over to another."""
        setattr(self, old.lower(), getattr(self, old.lower()) - jobs)
        setattr(self, new.lower(), getattr(self, new.lower()) + jobs)


def contribution(status: JobStatus, progress: int) -> int:
    """What one job adds to its batch's progress sum, in percent: a final job counts 100 whatever it reached."""
    return 100 if status in FINAL_JOB else progress


def batch_progress(progress_sum: int, total: int) -> int:
    """The floor of the mean over jobs, in percent; 0 for a batch without jobs."""
    return progress_sum // total if total else 0


def batch_status(
    counts: Counts, *, started: bool, paused: bool, cancel_requested: bool, failed_items: int, still_open: bool = False
) -> BatchStatus:
    """The one state that follows from the counters and what was asked for. `still_open`: there may be more jobs."""
    if not still_open and not counts.queued and not counts.processing:
        if cancel_requested or (counts.total and counts.cancelled == counts.total):
            return BatchStatus.CANCELLED
        if counts.completed == counts.total and not failed_items:
            return BatchStatus.COMPLETED  # also without a single job
        return BatchStatus.PARTIAL if counts.completed else BatchStatus.FAILED
    if paused:
        return BatchStatus.PAUSED
    return BatchStatus.PROCESSING if started else BatchStatus.QUEUED
