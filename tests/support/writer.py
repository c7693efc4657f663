"""A writer of one batch, without a worker: every step is a real versioned change, committed and then published."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import sqlalchemy as sa

from shared import models, queries
from shared.changes import Change
from shared.channels import Frame, Publisher
from shared.job_updates import JobUpdate, NewLine
from shared.jobs import JobStatus
from shared.redis_clients import make_redis
from shared.rows import batch_of, job_of, line_of
from shared.settings import Settings
from tests.support.batches import job_rows, make_batch

RESULT = b'{"steps": 1, "attempt": 1}'


class Writer:
    """Jobs are named by their position. `publish` can be turned off, and on again."""

    def __init__(self, engine: sa.Engine, settings: Settings, jobs: int = 1, **options: Any) -> None:
        self.engine = engine
        self.publish = True
        self.batch_id = make_batch(engine, jobs, **options)
        self.frames: list[Frame] = []
        self.jobs = [row.id for row in job_rows(engine, self.batch_id)] if jobs <= 100 else []
        self._token = uuid4()
        self._attempts = dict.fromkeys(self.jobs, 0)
        self._lines = dict.fromkeys(self.jobs, 0)
        self._redis = make_redis(settings.redis_url)
        self._namespace = settings.namespace
        self.redis_is_back()

    def redis_is_back(self) -> None:
        """A publisher leaves Redis alone for a while after a failure; this one begins anew."""
        self._publisher = Publisher(self._redis, self._namespace)

    def close(self) -> None:
        self._redis.close()

    def start(self, *positions: int) -> int:
        """All of these methods return the version that they made, 0 if there was nothing to change."""
        ids = [self.jobs[position] for position in positions]
        with self.engine.begin() as connection:
            for job_id in ids:
                claim = sa.update(models.jobs).where(models.jobs.c.id == job_id, models.jobs.c.status == "QUEUED")
                connection.execute(claim.values(lease_token=self._token))
            change = Change(connection, self.batch_id)
            for row in change.start(ids, self._token, 60):
                self._attempts[row.id] = row.attempt
            frame = change.close()
        return self._tell(frame)

    def progress(self, position: int, percent: int = 0, *, lines: int = 0, text: str = "line", **fields: Any) -> int:
        return self._update(position, lines, text, progress=percent, **fields)

    def finish(self, position: int, status: JobStatus = JobStatus.COMPLETED, *, lines: int = 0) -> int:
        return self._update(position, lines, "the end", status=status, result=RESULT, reason="ended")

    def give_back(self, position: int) -> int:
        return self._update(position, 0, "", status=JobStatus.QUEUED, delay=0.0, reason="given back")

    def cancel(self) -> int:
        with self.engine.begin() as connection:
            change = Change(connection, self.batch_id)
            change.cancel()
            frame = change.close()
        return self._tell(frame)

    def retry_failed(self) -> int:
        with self.engine.begin() as connection:
            change = Change(connection, self.batch_id)
            change.retry_failed()
            frame = change.close()
        return self._tell(frame)

    def delete(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.delete(models.batches).where(models.batches.c.id == self.batch_id))

    def state(self) -> dict[str, Any]:
        """The whole truth in one snapshot, as the wire has it: epoch, batch, jobs by id, lines by (job, n)."""
        with self.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            batch = connection.execute(queries.WATCHED_BATCH, {"id": self.batch_id}).one()
            job, line = models.jobs, models.log_lines
            jobs = connection.execute(
                sa.select(job).where(job.c.batch_id == self.batch_id).order_by(job.c.version, job.c.position)
            )
            newest_first = [column.desc() for column in (line.c.version, line.c.at, line.c.job_id, line.c.n)]
            lines = connection.execute(sa.select(line).where(line.c.batch_id == self.batch_id).order_by(*newest_first))
            return {
                "epoch": batch.epoch,
                "batch": _wire(batch_of(batch)),
                "jobs": {str(row.id): _wire(job_of(row)) for row in jobs},
                "lines": {(str(row.job_id), row.n): _wire(line_of(row)) for row in lines},
            }

    def _update(self, position: int, lines: int, text: str, **fields: Any) -> int:
        job_id = self.jobs[position]
        first = self._lines[job_id] + 1
        new = [
            NewLine(job_id, self._attempts[job_id], n, datetime.now(UTC), "info", text)
            for n in range(first, first + lines)
        ]
        with self.engine.begin() as connection:
            change = Change(connection, self.batch_id)
            update = JobUpdate(id=job_id, token=self._token, last_line=first + lines - 1, **fields)
            if change.update([update]):
                change.add_lines(new)
                self._lines[job_id] += lines
            frame = change.close()
        return self._tell(frame)

    def _tell(self, frame: Frame | None) -> int:
        if frame is None:
            return 0
        self.frames.append(frame)
        if self.publish:
            self._publisher.publish(self.batch_id, frame)
        return frame.to


def _wire(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))
