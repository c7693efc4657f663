"""The sweeper: puts right what a crash or an outage left. Every worker runs one; a lock lets one at a time work."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any
from uuid import UUID

import structlog
from dramatiq.errors import BrokerConnectionError
from sqlalchemy import Connection, Engine, TextClause
from sqlalchemy.exc import SQLAlchemyError

from services.worker.loop import Loop
from services.worker.metrics import Metrics
from services.worker.retries import after_failure
from shared import queries
from shared.changes import Change, NoSuchBatch
from shared.channels import Publisher
from shared.commit import commit
from shared.creation import TICKETS
from shared.events import Failure
from shared.job_updates import JobUpdate, NewLine
from shared.jobs import FINAL_BATCH, JobStatus
from shared.kinds.kind import Kind
from shared.outage import Outage
from shared.queue import send_tickets, waiting_tickets
from shared.settings import Settings
from shared.succession import settle
from shared.tickets import TicketBroker

_PERIOD = 1.0
"""Seconds: a missing ticket is made up for within two of them."""

_LOCK = 7_203_551
"""Of the transaction that sweeps. Any number will do, as long as it is always the same one."""

_ROUND = 1.0
"""Seconds in which as many batches are let begin or cancelled as one round does: the leases are looked at again."""

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
        metrics: Metrics | None = None,
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
        self._queues = sorted({kind.queue for kind in kinds.values() if kind.queue})
        self._jitter = jitter
        self._metrics = metrics or Metrics()
        self._seen: datetime | None = None
        """What the server's clock showed in the last round."""
        self._steady_since = datetime.min.replace(tzinfo=UTC)
        self._loop = Loop("sweeper", self._turn, _PERIOD, postgresql=Outage("postgresql", "sweeper"))

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        """Returns at once; the round that is under way is finished."""
        self._loop.stop()

    def join(self, timeout: float) -> bool:
        """Whether it has ended."""
        return self._loop.join(timeout)

    def _turn(self) -> None:
        try:
            self.sweep()
        except SQLAlchemyError:
            self._seen = None
            raise

    def sweep(self) -> None:
        """One round, unless another process is at it."""
        with self._engine.connect() as guard, guard.begin():
            now, up_since = guard.execute(queries.CLOCK).one()
            may_expire = self._may_expire(now, up_since)
            if not guard.execute(queries.TRY_LOCK, {"lock": _LOCK}).scalar_one():
                return
            guard.execute(queries.KEEP_LOCK)
            if may_expire:
                self._expire(now)
            self._settle_successors()
            self._cancel_late()
            self._send_tickets(guard)

    def _may_expire(self, now: datetime, up_since: datetime) -> bool:
        """After an outage workers first get a full lease to renew theirs: it must not re-run everything.

        A server, a machine or a process that stood still and a clock that was set are outages that only this shows.
        """
        steady = self._seen is not None and timedelta(0) <= now - self._seen < self._gap
        if not steady:
            self._steady_since = now
        self._steady_since = max(self._steady_since, up_since)
        self._seen = now
        return now - self._steady_since > self._lease

    def _expire(self, now: datetime) -> None:
        """`now`: when the round began, for the server may stand still in the middle of it, too."""
        with self._engine.begin() as connection:
            connection.execute(queries.RELEASE_EXPIRED)
            parameters = {"jobs": _MANY, "now": now, "steady": self._steady_since}
            rows = connection.execute(queries.EXPIRED, parameters).all()
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
            self._metrics.expired += len(accepted)
            log.warning("leases expired", batch=str(batch_id), jobs=len(accepted))

    def _settle_successors(self) -> None:
        """Batches that waited for another one, which has ended by now."""
        for batch_id in self._found(queries.SUCCESSORS):
            with self._engine.connect() as connection, suppress(NoSuchBatch):
                commit(connection, self._publisher, batch_id, settle(connection, batch_id))

    def _cancel_late(self) -> None:
        """Batches that had to have ended by now."""
        for batch_id in self._found(queries.EXPIRING):
            with self._engine.connect() as connection, suppress(NoSuchBatch):
                change = Change(connection, batch_id)
                batch = change.batch
                if batch.status not in FINAL_BATCH and not batch.cancel_requested:
                    change.cancel("expired")
                commit(connection, self._publisher, batch_id, change.close())

    def _found(self, query: TextClause) -> Iterator[UUID]:
        """One after the other, in whose own transaction each is looked at again; `_ROUND` seconds of them at most."""
        until = time.monotonic() + _ROUND
        before: list[UUID] = []
        while True:
            with self._engine.begin() as connection:
                batch_ids = list(connection.execute(query, {"batches": _MANY}).scalars())
            if batch_ids == before:
                return
            for batch_id in batch_ids:
                if time.monotonic() > until:
                    return  # there are leases to be looked at
                yield batch_id
            before = batch_ids

    def _expired(self, job: Any) -> tuple[JobUpdate, NewLine]:
        """The end of an attempt whose worker is gone. It counts: the job may be what killed it."""
        kind, failure = self._kinds.get(job.kind), _EXPIRED
        status, delay = (JobStatus.FAILED, None) if kind is None else after_failure(kind, job.failures, self._jitter)
        if job.silence is not None:
            failure = Failure("silent", f"nothing was reported for {job.silence:g} s")
            delay = None  # whoever reports may begin again at once
        update = JobUpdate(
            id=job.id,
            token=job.lease_token,
            status=status,
            error=failure,
            delay=delay,
            counts=True,
            last_line=job.last_line + 1,
            reason=failure.code,
        )
        text = f"attempt {job.attempt} failed: {failure.message}"
        return update, NewLine(job.id, job.attempt, job.last_line + 1, job.now, "error", text)

    def _send_tickets(self, connection: Connection) -> None:
        """Where jobs are runnable and no ticket waits, one was lost, a retry is due, or all threads were busy."""
        for queue in self._queues:
            runnable = connection.execute(queries.RUNNABLE, {"queue": queue, "jobs": TICKETS}).scalar_one()
            try:
                if runnable and not waiting_tickets(self._broker, queue):
                    send_tickets(self._broker, queue, runnable)
            except BrokerConnectionError:
                return  # the stand-by is at work
