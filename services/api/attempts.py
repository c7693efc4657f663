"""A job's attempts, as its transitions tell them."""

from collections.abc import Iterable
from typing import Any

from services.api.replies import Attempt
from shared.events import stamp
from shared.jobs import JobStatus
from shared.rows import failure_of


def attempts_of(transitions: Iterable[Any]) -> list[Attempt]:
    """One for each start. `transitions` are those of one job, oldest first."""
    attempts: list[Attempt] = []
    for row in transitions:
        if row.new_status == JobStatus.PROCESSING:
            attempts.append(Attempt(row.attempt, stamp(row.at)))
        elif row.old_status == JobStatus.PROCESSING and attempts:
            attempts[-1].finished_at = stamp(row.at)
            if row.message is not None:
                attempts[-1].error = failure_of(row.message)
    return attempts
