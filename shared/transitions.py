"""Transitions: the history that states alone cannot give, for timelines and listeners."""

from uuid import UUID

from msgspec import Struct, field
from sqlalchemy import Connection

from shared import queries
from shared.jobs import BatchStatus, JobStatus

_Status = JobStatus | BatchStatus

_COLUMNS = ("job_ids", "old_statuses", "new_statuses", "attempts", "reasons", "messages")


class Transitions(Struct):
    """Those of one batch and its jobs that one transaction brings about, written together."""

    noted: list[tuple[UUID | None, _Status | None, _Status, int | None, str, str | None]] = field(default_factory=list)

    def note(
        self,
        job: UUID | None,
        old: _Status | None,
        new: _Status,
        attempt: int | None,
        reason: str,
        message: str | None = None,
    ) -> None:
        """`job` None: the batch itself, which has no attempts."""
        self.noted.append((job, old, new, attempt, reason, message))

    def write(self, connection: Connection, batch_id: UUID) -> None:
        if self.noted:
            columns = [list(column) for column in zip(*self.noted, strict=True)]
            parameters = dict(zip(_COLUMNS, columns, strict=True))
            connection.execute(queries.ADD_TRANSITIONS, {"batch_id": batch_id, **parameters})
