"""The writer: the one thread of a worker process that claims jobs and commits what becomes of them.

It takes what waits in the ledger, grouped by batch, commits it, publishes once, and has what it claimed handed out to
all free threads together. See docs/worker.md.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, Row
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError

from services.worker.attempts import waited_for
from services.worker.claims import Claims
from services.worker.leases import Leases
from services.worker.ledger import Ledger
from services.worker.metrics import COMMIT_BOUNDS, WAIT_BOUNDS, Metrics
from services.worker.run import Run
from services.worker.work import Work
from shared.changes import Change, NoSuchBatch
from shared.channels import FORMAT, Frame, Publisher
from shared.events import Failure
from shared.jobs import JobStatus
from shared.outage import Outage
from shared.settings import Limit, Settings
from shared.updates import Job

_TICK = 0.5
"""Seconds between two looks at leases, cancellations and time limits."""

_RETRY = (0.05, 1.0)
"""Seconds between attempts to reach PostgreSQL: first and longest."""

log = structlog.get_logger(__name__)


class Writer:
    """Call `start()` once; `stop()` ends it."""

    def __init__(
        self,
        ledger: Ledger,
        engine: Engine,
        publisher: Publisher,
        settings: Settings,
        queue: str,
        limits: Mapping[str, Limit] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """`limits`: of kinds that have some."""
        self._ledger = ledger
        self._engine = engine
        self._publisher = publisher
        self._lease = settings.lease
        # elsewhere, they come where the runner says
        self._uploads = settings.uploads if isinstance(settings.uploads, Path) else Path()
        self._metrics = metrics or Metrics()
        self._claims = Claims(settings, queue, limits or {})
        self._leases = Leases(settings.lease)
        self._connection: Connection | None = None
        self._postgresql = Outage("postgresql", "ledger")
        self._next_tick = 0.0
        self._thread = Thread(target=self._loop, name="writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Commits what waits, then ends the thread. False if that took longer than `timeout` seconds."""
        self._ledger.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        try:
            while self._turn():
                pass
        except Exception:  # a bug; the process must not go on without it
            log.exception("the writer failed")
            self._ledger.fail()
        finally:
            self._disconnect()

    def _turn(self) -> bool:
        """One round: wait until there is something to do, and do it. False when all is done and the ledger closes."""
        this = self._ledger.next_round(self._next_tick)
        if this is None:
            return False
        begun = time.monotonic()
        if this.wanted:
            self._claim(this.wanted, this.work)
        started: list[Run] = []
        for batch_id, work in this.work.items():
            started += self._commit_surely(batch_id, work)
        self._ledger.hand_out(this, started, time.monotonic() - begun)
        if time.monotonic() >= self._next_tick:
            self._tick()
        return True

    def _claim(self, jobs: int, work: dict[UUID, Work]) -> None:
        """Reserves up to `jobs` jobs and adds them to `work`."""
        begun = time.monotonic()
        ending = [run.job.id for batch in work.values() for run, _ in batch.updates if run.end]
        try:
            token, rows = self._claims.claim(self._connect(), jobs, ending)
        except DBAPIError as error:
            self._metrics.claims["failed"] += 1
            self._lost(error)
            return
        self._metrics.claims["found" if rows else "empty"] += 1
        self._metrics.claim_seconds += time.monotonic() - begun
        self._ledger.more = len(rows) == jobs
        for row in sorted(rows, key=lambda row: (row.batch_id, row.position)):
            batch = work.setdefault(row.batch_id, Work())
            batch.starts.append(row.id)
            batch.token = token

    def _commit_surely(self, batch_id: UUID, work: Work) -> list[Run]:
        """Commits, however long PostgreSQL is away: repeating a commit whose outcome is unknown is harmless."""
        pause, repeated = _RETRY[0], False
        while True:
            try:
                started = self._commit(batch_id, work, repeated=repeated)
            except DBAPIError as error:
                if not _transient(error):
                    started = self._commit_apart(batch_id, work, error)
                    break
                self._lost(error)
                repeated = True
                if self._ledger.closing and not work.updates:
                    return []
                time.sleep(pause)
                pause = min(_RETRY[1], pause * 2)
            except NoSuchBatch:
                self._ledger.drop(work)
                return []
            else:
                break
        self._postgresql.end()
        return started

    def _commit(self, batch_id: UUID, work: Work, *, repeated: bool) -> list[Run]:
        begun = time.monotonic()
        connection = self._connect()
        rows: list[Any] = []
        with connection.begin():
            change = Change(connection, batch_id)
            accepted = change.update([update for _, update in work.updates])
            change.add_lines(line for line in work.lines if line.job_id in accepted)
            if work.starts and work.token is not None:
                if repeated:
                    rows += change.started(work.starts, work.token)
                allowed = work.starts[: change.startable]
                if len(allowed) < len(work.starts):
                    change.release(work.starts[len(allowed) :], work.token)
                rows += change.start(allowed, work.token, self._lease)
            frame = change.close()
        self._metrics.commits.add(COMMIT_BOUNDS, time.monotonic() - begun)
        self._metrics.changes += len(work.updates) + len(rows)
        self._metrics.lines += len(work.lines)
        if frame is None and repeated:
            # what the lost answer was about may be committed without anybody having been told
            frame = Frame(FORMAT, change.batch.epoch, 0, change.batch.version, owner=change.batch.owner)
        if frame is not None:
            if work.updates:  # of several attempts, whose updates leave together, any is the cause
                frame.traceparent = work.updates[0][0].job.traceparent or frame.traceparent
            self._publisher.publish(batch_id, frame)
        started = self._begun(change.batch, rows, work.token)
        self._ledger.stored(work, accepted, started)
        return started

    def _commit_apart(self, batch_id: UUID, work: Work, error: DBAPIError) -> list[Run]:
        """Something in `work` cannot be stored. One by one, so that it harms no other job; then the culprit fails."""
        parts = work.apart()
        if len(parts) > 1:
            return [run for part in parts for run in self._commit_surely(batch_id, part)]
        if not work.updates:
            raise error
        (run, update) = work.updates[0]
        if update.error is not None and update.error.code == "unstorable":
            raise error
        # not in PostgreSQL's own words, which repeat what it was given
        refusal = f"{type(error.orig).__name__} ({getattr(error.orig, 'sqlstate', None)})"
        log.error("an update cannot be stored", job=str(run.job.id), error=refusal)
        failure = Failure("unstorable", f"PostgreSQL cannot store this: {refusal}")
        end = run.ended(JobStatus.FAILED, "unstorable", error=failure, counts=True)
        self._ledger.interrupt(run, "lost")
        return self._commit_surely(batch_id, Work(updates=[(run, end)]))

    def _begun(self, batch: Row[Any], rows: Sequence[Row[Any]], token: UUID | None) -> list[Run]:
        """The started jobs as runs, to be handed out."""
        runs = []
        for row in rows:
            job = Job(
                row.id,
                batch.id,
                batch.owner,
                row.name,
                row.attempt,
                self._uploads,
                row.checkpoint,
                traceparent=batch.traceparent,
                tracestate=batch.tracestate or "",
            )
            assert token is not None  # noqa: S101  # nothing is started without one
            run = Run(job, batch.kind, row.params, token, row.failures, row.last_line)
            run.started_at = time.monotonic()
            runs.append(run)
            if (waited := waited_for(batch, row)) is not None:
                self._metrics.waited.add(WAIT_BOUNDS, waited)
        return runs

    def _tick(self) -> None:
        """Leases, cancellations, time limits."""
        now = time.monotonic()
        self._next_tick = now + _TICK
        held = self._ledger.watch(now)
        if not held and not self._ledger.away and not self._claims.unsure:
            return
        try:
            connection = self._connect()
            with connection.begin():
                mine = self._leases.look(connection, held, now)
                if self._claims.unsure:  # if they were all there was to do, nobody asks for more
                    self._claims.release_unsure(connection)
        except DBAPIError as error:
            self._lost(error)
            return
        self._claims.unsure.clear()
        self._leases.committed(now)
        self._postgresql.end()
        self._ledger.told(held, mine)

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _lost(self, error: DBAPIError) -> None:
        """PostgreSQL is away: handlers wait at their next yield, and nobody gets a job."""
        self._metrics.failures += 1
        self._postgresql.begin(error.orig or error)
        self._disconnect()
        self._ledger.lose_postgresql()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()


def _transient(error: DBAPIError) -> bool:
    """Whether the same statement may succeed later: the server is away, read-only, full, or broke a deadlock.

    Not what it refuses for what it is: class 54 (a limit of the program, such as too deep a JSON) is the data's fault.
    """
    state = getattr(error.orig, "sqlstate", None) or ""
    return isinstance(error, (OperationalError, InterfaceError, InternalError)) and not state.startswith("54")
