"""Work: what one commit does to one batch."""

from uuid import UUID

from msgspec import Struct, field

from services.worker.run import Run
from shared.job_updates import JobUpdate, NewLine


class Work(Struct):
    updates: list[tuple[Run, JobUpdate]] = field(default_factory=list)
    lines: list[NewLine] = field(default_factory=list)
    starts: list[UUID] = field(default_factory=list)
    """Jobs that are reserved under `token`."""
    token: UUID | None = None

    def apart(self) -> list["Work"]:
        """The same in parts: each job's update with its lines, and what is to be started."""
        parts = [
            Work(updates=[(run, update)], lines=[line for line in self.lines if line.job_id == run.job.id])
            for run, update in self.updates
        ]
        return parts + ([Work(starts=self.starts, token=self.token)] if self.starts else [])
