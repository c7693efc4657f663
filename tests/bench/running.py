"""A batch all of whose jobs run, and get on as the ledger commits it: many of these share connections."""

import time
from uuid import UUID, uuid4

import sqlalchemy as sa

from shared import models
from shared.changes import Change
from shared.channels import Publisher
from shared.job_updates import JobUpdate

_LEASE = 3600


class RunningBatch:
    def __init__(self, connection: sa.Connection, publisher: Publisher, batch_id: UUID) -> None:
        """Starts all jobs of a new batch."""
        self.id = batch_id
        self.updates = 0
        self.version = 0
        self._connection = connection
        self._publisher = publisher
        self._token = uuid4()
        table = models.jobs
        with connection.begin():
            mine = table.c.batch_id == batch_id
            connection.execute(sa.update(table).where(mine).values(lease_token=self._token))
            self.jobs = list(connection.execute(sa.select(table.c.id).where(mine)).scalars())
            change = Change(connection, batch_id)
            change.start(self.jobs, self._token, _LEASE)
            frame = change.close()
        assert frame is not None
        self.version = frame.to

    def update(self, job_id: UUID, percent: int) -> tuple[int, float]:
        """One job's progress, committed and published: its version, and when it was committed."""
        self.updates += 1
        with self._connection.begin():
            change = Change(self._connection, self.id)
            assert change.update([JobUpdate(id=job_id, token=self._token, progress=percent)])
            frame = change.close()
        committed = time.monotonic()
        assert frame is not None
        self.version = frame.to
        self._publisher.publish(self.id, frame)
        return frame.to, committed
