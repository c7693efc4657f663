"""What becomes of running jobs, as those who run them have it stored: a worker, or who reports from elsewhere."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

from shared.events import Artifact, Failure
from shared.jobs import JobStatus
from shared.updates import Items, Level


class JobUpdate(Struct, kw_only=True):
    """What becomes of one running job. None keeps what is there."""

    id: UUID
    token: UUID
    status: JobStatus = JobStatus.PROCESSING
    progress: int = 0
    step: str | None = None
    message: str | None = None
    items: Items | None = None
    metadata: bytes | None = None
    """JSON, an object."""
    checkpoint: bytes | None = None
    """JSON."""
    artifacts: list[Artifact] = []
    """New ones, whose files are there. One takes the place of an earlier one of its name."""
    last_line: int = 0
    error: Failure | None = None
    result: bytes | None = None
    """JSON."""
    delay: float | None = None
    """Seconds until the next attempt, with status QUEUED."""
    counts: bool = False
    """Whether this end of an attempt counts against the kind's attempts."""
    reason: str = ""
    """Why, for the history, when the status changes."""


class NewLine(Struct):
    job_id: UUID
    attempt: int
    n: int
    at: datetime
    level: Level
    text: str


def update_columns(updates: Sequence[JobUpdate]) -> dict[str, list[Any]]:
    """As UPDATE_JOBS takes them, but for artifacts."""
    return {
        "ids": [update.id for update in updates],
        "tokens": [update.token for update in updates],
        "statuses": [update.status for update in updates],
        "progress": [update.progress for update in updates],
        "steps": [update.step for update in updates],
        "messages": [update.message for update in updates],
        "items_done": [update.items.done if update.items else None for update in updates],
        "items_failed": [update.items.failed if update.items else None for update in updates],
        "items_total": [update.items.total if update.items else None for update in updates],
        "metadata": [None if update.metadata is None else update.metadata.decode() for update in updates],
        "checkpoints": [None if update.checkpoint is None else update.checkpoint.decode() for update in updates],
        "last_lines": [update.last_line for update in updates],
        "error_codes": [update.error.code if update.error else None for update in updates],
        "error_messages": [update.error.message if update.error else None for update in updates],
        "results": [update.result.decode() if update.result is not None else None for update in updates],
        "delays": [update.delay for update in updates],
        "counts": [update.counts for update in updates],
    }


def line_columns(lines: Sequence[NewLine]) -> dict[str, list[Any]]:
    """As ADD_LINES takes them."""
    return {
        "job_ids": [line.job_id for line in lines],
        "numbers": [line.n for line in lines],
        "attempts": [line.attempt for line in lines],
        "times": [line.at for line in lines],
        "levels": [line.level for line in lines],
        "texts": [line.text for line in lines],
    }
