"""The sweeper: puts right what a crash or an outage left. Every worker runs one; a lock lets one at a time work."""

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import groupby
from threading import Event, Thread
from typing import Any

import redis
import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from services.worker.retries import after_failure
from shared import queries
from shared.changes import Change, JobUpdate, NewLine, NoSuchBatch, commit
from shared.channels import Publisher
from shared.creation import TICKETS
from shared.events import Failure
from shared.jobs import JobStatus
from shared.kinds.kind import Kind
from shared.outage import Outage
from shared.queue import TicketBroker, send_tickets, waiting_tickets
from shared.settings import Settings

_PERIOD = 1.0
"""Seconds: a missing ticket is made up for within two of them."""

_LOCK = 7_203_551
"""Of the transaction that sweeps. Any number will do, as long as it is always the same one."""

_MANY = 100
"""Rows in one go."""

_EXPIRED = Failure("lease_expired", "the worker that ran this was not heard of any more")

log = structlog.get_logger(__name__)


class Sweeper:
    def __init__(
        self,
        engine: Engine,
        broker: TicketBroker,
        publisher: Publisher,
        settings: Settings,
        kinds: Mapping[str, Kind],
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._lease = timedelta(seconds=settings.lease)
        # between two rounds: longer, and leases that are being renewed might have run out meanwhile
        self._gap = max(timedelta(seconds=3 * _PERIOD), self._lease / 2)
        self._engine = engine
        self._broker = broker
        self._publisher = publisher
        self._settings = settings
        self._kinds = kinds
        self._queues = sorted({kind.queue for kind in kinds.values()})
        self._jitter = jitter
        self._seen: datetime | None = None
        """What the server's clock showed in the last round."""
        self._steady_since = datetime.min.replace(tzinfo=UTC)
        self._postgresql = Outage("postgresql", "sweeper")
        self._stopping = Event()
        self._thread = Thread(target=self._loop, name="sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns at once; the round that is under way is finished."""
        self._stopping.set()

    def _loop(self) -> None:
        while not self._stopping.wait(_PERIOD):
            try:
                self.sweep()
                self._postgresql.end()
            except SQLAlchemyError as error:
                self._seen = None
                self._postgresql.begin(error)
            except Exception:  # a bug in one round must not end all of them
                log.exception("the sweeper failed")

    def sweep(self) -> None:
        """One round, unless another process is at it."""
        with self._engine.connect() as guard, guard.begin():
            now, up_since = guard.execute(queries.CLOCK).one()
            may_expire = self._may_expire(now, up_since)
            if not guard.execute(queries.TRY_LOCK, {"lock": _LOCK}).scalar_one():
                return
            if may_expire:
                self._expire(now)
            self._send_tickets(guard)

    def _may_expire(self, now: datetime, up_since: datetime) -> bool:
        """After an outage workers first get a full lease to renew theirs: it must not re-run everything.

        A server, a machine or a process that stood still and a clock that was set are outages that only this shows.
        """
        steady = self._seen is not None and timedelta(0) <= now - self._seen < self._gap
        if not steady:
            self._steady_since = now
        self._seen = now
        return now - max(self._steady_since, up_since) > self._lease

    def _expire(self, now: datetime) -> None:
        """`now`: when the round began, for the server may stand still in the middle of it, too."""
        with self._engine.begin() as connection:
            connection.execute(queries.RELEASE_EXPIRED)
            rows = connection.execute(queries.EXPIRED, {"jobs": _MANY, "now": now}).all()
        for batch_id, jobs in groupby(rows, key=lambda row: row.batch_id):
            updates, lines = [], []
            for job in jobs:
                update, line = self._expired(job)
                updates.append(update)
                lines.append(line)
            try:
                with self._engine.connect() as connection:
                    change = Change(connection, batch_id)
                    accepted = change.update(updates, only_expired=True)
                    change.add_lines(line for line in lines if line.job_id in accepted)
                    commit(connection, self._publisher, batch_id, change.close())
            except NoSuchBatch:  # deleted meanwhile
                continue
            log.warning("leases expired", batch=str(batch_id), jobs=len(accepted))

    def _expired(self, job: Any) -> tuple[JobUpdate, NewLine]:
        """The end of an attempt whose worker is gone. It counts: the job may be what killed it."""
        kind = self._kinds.get(job.kind)
        status, delay = (JobStatus.FAILED, None) if kind is None else after_failure(kind, job.failures, self._jitter)
        update = JobUpdate(
            id=job.id,
            token=job.lease_token,
            status=status,
            error=_EXPIRED,
            delay=delay,
            counts=True,
            last_line=job.last_line + 1,
            reason=_EXPIRED.code,
        )
        text = f"attempt {job.attempt} failed: {_EXPIRED.message}"
        return update, NewLine(job.id, job.attempt, job.last_line + 1, job.now, "error", text)

    def _send_tickets(self, connection: Connection) -> None:
        """Where jobs are runnable and no ticket waits, one was lost, a retry is due, or all threads were busy."""
        for queue in self._queues:
            runnable = connection.execute(queries.RUNNABLE, {"queue": queue, "jobs": TICKETS}).scalar_one()
            try:
                if runnable and not waiting_tickets(self._broker, queue):
                    send_tickets(self._broker, queue, runnable)
            except (redis.RedisError, OSError):
                return  # the stand-by is at work
