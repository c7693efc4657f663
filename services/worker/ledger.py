"""The ledger: the one thread of a worker process that writes.

Handlers' threads tell it what happened and ask for work; it groups what waits by batch, commits, publishes once, and
hands out what it claimed for all free threads together. See docs/worker.md.
"""

import ctypes
import time
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Condition, Event, Thread
from typing import Any
from uuid import UUID, uuid4

import structlog
from msgspec import Struct, field
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError

from services.worker.ahead import Ahead
from services.worker.run import Interrupt, Interrupted, Run
from shared import queries
from shared.changes import Change, JobUpdate, NewLine, NoSuchBatch
from shared.channels import FORMAT, Frame, Publisher
from shared.events import Failure
from shared.jobs import JobStatus
from shared.outage import Outage
from shared.settings import Settings
from shared.updates import Job, Level, Update

THROTTLE = 0.1
"""Seconds between two commits of one job's progress."""

_TICK = 0.5
"""Seconds between two looks at leases, cancellations and time limits."""

_RETRY = (0.05, 1.0)
"""Seconds between attempts to reach PostgreSQL: first and longest."""

_ABANDON_SPARE = 1.0
"""Seconds on top of the grace, for a handler that ends just in time."""

log = structlog.get_logger(__name__)


class Abandoned(BaseException):
    """Raised asynchronously in a thread whose handler did not end when asked: it may get out of a loop that way."""


class Wish(Struct):
    """A thread that asks for a next job. Answered when `done` is set; `run` None: nothing is runnable."""

    done: Event = field(default_factory=Event)
    run: Run | None = None
    repeated: bool = False


class Work(Struct):
    """What one commit does to one batch."""

    updates: list[tuple[Run, JobUpdate]] = field(default_factory=list)
    lines: list[NewLine] = field(default_factory=list)
    starts: list[UUID] = field(default_factory=list)
    token: UUID | None = None


class Ledger:
    """Call `start()` once; `stop()` ends it. `next`, `record` and `finish` are for the handlers' threads."""

    def __init__(
        self,
        engine: Engine,
        publisher: Publisher,
        settings: Settings,
        queue: str,
        time_limit: Callable[[str], float],
    ) -> None:
        self._engine = engine
        self._publisher = publisher
        self._settings = settings
        self._queue = queue
        self._time_limit = time_limit
        self._connection: Connection | None = None
        self._lock = Condition()
        self._wishes: list[Wish] = []
        self._runs: set[Run] = set()
        self._ahead = Ahead(settings.threads)
        self._unsure: list[UUID] = []
        """The tokens of claims whose outcome is unknown."""
        self._claiming = True
        self._closing = False
        self._away = False
        self._postgresql = Outage("postgresql", "ledger")
        self._next_tick = 0.0
        self._next_renewal = 0.0
        self._thread = Thread(target=self._loop, name="ledger", daemon=True)
        self.more = False
        """Whether the last claim got all it asked for: there is probably more."""
        self.abandoned = 0
        """Threads whose handler did not end when asked, and still has not."""
        self.broken = False
        """The thread died of an unexpected error: the process has to be replaced."""

    # -- for the handlers' threads

    def next(self) -> Run | None:
        """The next job, started and committed; None: nothing is runnable, PostgreSQL is away, or the process leaves."""
        wish = Wish()
        with self._lock:
            while run := self._ahead.take():
                if run.interrupt is None:
                    run.started_at = time.monotonic()
                    return run
                self._end_unbegun(run, run.interrupt)
            if not self._claiming or self._away or self.broken:
                return None
            self._wishes.append(wish)
            self._lock.notify_all()
        wish.done.wait()
        return wish.run

    def record(self, run: Run, update: Update) -> None:
        """Takes note of an update. Waits while memory is full or PostgreSQL away; raises Interrupted to end the run."""
        with self._lock:
            while not run.interrupt and not run.abandoned and (run.full or (self._away and run.waiting)):
                self._lock.wait()
            if run.abandoned:
                raise Interrupted("lost")
            if run.interrupt:
                raise Interrupted(run.interrupt)
            limits, waiting = self._settings, run.waiting
            run.say(update, datetime.now(UTC), max_line=limits.max_line, max_lines=limits.max_lines)
            if run.urgent or not waiting:  # else the thread knows already when to wake up
                self._lock.notify_all()

    def finish(self, run: Run, end: JobUpdate | None, *, line: tuple[Level, str] | None = None) -> None:
        """The attempt is over (None: it is no longer ours to end). Does not wait for the commit."""
        with self._lock:
            if run.abandoned:
                self.abandoned -= 1
                return
            self._ahead.ran(time.monotonic() - run.started_at)
            if end is None or run.interrupt == "lost":
                self._runs.discard(run)
                return
            if line is not None:
                limits = self._settings
                run.add_line(*line, datetime.now(UTC), max_line=limits.max_line, max_lines=limits.max_lines)
            run.end = end
            self._lock.notify_all()

    # -- for the process

    @property
    def running(self) -> int:
        with self._lock:
            return len(self._runs)

    def start(self) -> None:
        self._thread.start()

    def stop_claiming(self) -> None:
        """No more jobs are handed out."""
        with self._lock:
            self._claiming = False
            self._give_back_unbegun()
            self._lock.notify_all()

    def interrupt_all(self, reason: Interrupt) -> None:
        """Asks every running handler to end at its next yield."""
        with self._lock:
            for run in self._runs:
                self._interrupt(run, reason)
            self._lock.notify_all()

    def give_up(self) -> None:
        """What still runs is given back although its handler goes on; nothing that it says counts any more."""
        with self._lock:
            for run in [run for run in self._runs if run.end is None]:
                self._abandon(run)
            self._lock.notify_all()

    def stop(self, timeout: float) -> bool:
        """Commits what waits, then ends the thread. False if that took longer than `timeout` seconds."""
        with self._lock:
            self._claiming, self._closing = False, True
            self._lock.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the thread

    def _loop(self) -> None:
        try:
            while self._turn():
                pass
        except Exception:  # a bug; the process must not go on without a ledger
            log.exception("the ledger failed")
            with self._lock:
                self.broken = True
                self._answer(self._wishes, [])
                self._lock.notify_all()
        finally:
            self._disconnect()

    def _turn(self) -> bool:
        """One round: wait until there is something to do, and do it. False when all is done and the ledger closes."""
        with self._lock:
            while not (self._wishes or self._due() or time.monotonic() >= self._next_tick):
                if self._closing and not self._runs:
                    return False
                self._lock.wait(self._until_due())
            wishes, self._wishes = self._wishes, []
            work: dict[UUID, Work] = {}
            for run in self._due():
                update, lines = run.take()
                batch = work.setdefault(run.job.batch_id, Work())
                batch.updates.append((run, update))
                batch.lines += lines
            wanted = len(wishes) + (self._ahead.room if self._runs else 0) if self._claiming else 0
        begun = time.monotonic()
        token = self._claim(wanted, work) if wanted else None
        started: list[Run] = []
        for batch_id, batch in work.items():
            batch.token = token
            started += self._commit_surely(batch_id, batch)
        with self._lock:
            if work:
                self._ahead.committed(time.monotonic() - begun)
            self._ahead.put(started)
            if not self._claiming:  # the process began to leave meanwhile: these are not begun any more
                self._give_back_unbegun()
            started = [run for run in (self._ahead.take() for _ in wishes) if run is not None]
            if any(run.end for batch in work.values() for run, _ in batch.updates):
                # the claim came before these ends were committed: a limit may have room now
                first = [wish for wish in wishes[len(started) :] if not wish.repeated]
                self._wishes += first
                wishes = wishes[: len(started)] + [wish for wish in wishes[len(started) :] if wish.repeated]
                for wish in first:
                    wish.repeated = True
            self._answer(wishes, started)
            self._lock.notify_all()
        if time.monotonic() >= self._next_tick:
            self._tick()
        return True

    def _due(self) -> list[Run]:
        now = time.monotonic()
        return [
            run for run in self._runs if run.waiting and (run.end or run.urgent or now >= run.committed_at + THROTTLE)
        ]

    def _until_due(self) -> float:
        now = time.monotonic()
        times = [run.committed_at + THROTTLE for run in self._runs if run.waiting]
        return max(0.0, min([*times, self._next_tick]) - now)

    @staticmethod
    def _answer(wishes: list[Wish], started: list[Run]) -> None:
        for wish in wishes:
            wish.run = started.pop(0) if started else None
            wish.done.set()

    def _give_back_unbegun(self) -> None:
        while run := self._ahead.take():
            self._end_unbegun(run, run.interrupt or "given_back")

    def _end_unbegun(self, run: Run, reason: Interrupt) -> None:
        """Its handler is not even called."""
        if reason == "lost":
            self._runs.discard(run)
        elif reason == "cancelled":
            run.end = run.ended(JobStatus.CANCELLED, "cancelled")
        else:
            run.end = run.ended(JobStatus.QUEUED, "given_back")

    # -- claiming

    def _claim(self, jobs: int, work: dict[UUID, Work]) -> UUID | None:
        """Reserves up to `jobs` jobs and adds them to `work`. A failure claims nothing, or it goes back next time."""
        token, unsure = uuid4(), self._unsure
        try:
            connection = self._connect()
            with connection.begin():
                # a reservation that is lost with the server is no loss
                connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
                self._release_unsure(connection)
                unsure = [*self._unsure, token]
                rows = connection.execute(
                    queries.CLAIM,
                    {"queue": self._queue, "jobs": jobs, "token": token, "lease": self._settings.lease},
                ).all()
        except DBAPIError as error:
            self._unsure = unsure
            self._lost(error)
            return None
        self._unsure = []
        self.more = len(rows) == jobs
        for row in sorted(rows, key=lambda row: (row.batch_id, row.position)):
            work.setdefault(row.batch_id, Work()).starts.append(row.id)
        return token

    def _release_unsure(self, connection: Connection) -> None:
        if self._unsure:
            connection.execute(queries.RELEASE_CLAIMS, {"tokens": self._unsure})

    # -- committing

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
                if self._closing and not work.updates:
                    return []
                time.sleep(pause)
                pause = min(_RETRY[1], pause * 2)
            except NoSuchBatch:
                self._drop(work)
                return []
            else:
                break
        self._postgresql.end()
        with self._lock:
            self._away = False
            self._lock.notify_all()
        return started

    def _commit(self, batch_id: UUID, work: Work, *, repeated: bool) -> list[Run]:
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
                rows += change.start(allowed, work.token, self._settings.lease)
            frame = change.close()
        if frame is None and repeated:
            # what the lost answer was about may be committed without anybody having been told
            frame = Frame(FORMAT, change.batch.epoch, 0, change.batch.version, owner=change.batch.owner)
        if frame is not None:
            self._publisher.publish(batch_id, frame)
        self._settle(work, accepted)
        return self._begin(change.batch, rows, work.token)

    def _commit_apart(self, batch_id: UUID, work: Work, error: DBAPIError) -> list[Run]:
        """Something in `work` cannot be stored. One by one, so that it harms no other job; then the culprit fails."""
        parts = [
            Work(updates=[(run, update)], lines=[line for line in work.lines if line.job_id == run.job.id])
            for run, update in work.updates
        ]
        if len(parts) + bool(work.starts) > 1:
            parts += [Work(starts=work.starts, token=work.token)] if work.starts else []
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
        with self._lock:
            self._interrupt(run, "lost")
        return self._commit_surely(batch_id, Work(updates=[(run, end)]))

    def _settle(self, work: Work, accepted: set[UUID]) -> None:
        now = time.monotonic()
        with self._lock:
            for run, update in work.updates:
                run.committed_at = now
                if update.status is not JobStatus.PROCESSING:
                    self._runs.discard(run)
                elif run.job.id not in accepted:
                    self._lose(run)

    def _begin(self, batch: Any, rows: list[Any], token: UUID | None) -> list[Run]:
        """The started jobs as runs, to be handed out."""
        runs = []
        for row in rows:
            job = Job(row.id, batch.id, batch.owner, row.name, row.attempt, self._settings.uploads)
            assert token is not None  # noqa: S101  # nothing is started without one
            run = Run(job, batch.kind, row.params, token, row.failures, row.last_line)
            run.started_at = time.monotonic()
            runs.append(run)
        ids = {row.id for row in rows}
        with self._lock:
            for run in [run for run in self._runs if run.job.id in ids]:
                self._lose(run)  # its lease was over, nobody had told it, and this process got the job again
            self._runs.update(runs)
        return runs

    def _drop(self, work: Work) -> None:
        with self._lock:
            for run, update in work.updates:
                self._lose(run)
                if update.status is not JobStatus.PROCESSING:
                    self._runs.discard(run)

    # -- looking after what runs

    def _tick(self) -> None:
        """Leases, cancellations, time limits."""
        now = time.monotonic()
        self._next_tick = now + _TICK
        with self._lock:
            if self._ahead.overdue(now):
                self._give_back_unbegun()
            held = [run for run in self._runs if run.end is None]
            self._watch(held, now)
        if not held and not self._away and not self._unsure:
            return
        parameters = {"ids": [run.job.id for run in held], "tokens": [run.token for run in held]}
        renewed = None
        try:
            connection = self._connect()
            with connection.begin():
                if now >= self._next_renewal:
                    lease = {"lease": self._settings.lease}
                    renewed = connection.execute(queries.RENEW, parameters | lease).rowcount
                mine = {row.id: row.cancel_requested for row in connection.execute(queries.HELD, parameters)}
                self._release_unsure(connection)  # if they were all there was to do, nobody asks for more
        except DBAPIError as error:
            self._lost(error)
            return
        self._unsure = []
        # unless the commit was lost, or some were locked: then again at the next tick
        if renewed is not None and renewed >= len(mine):
            self._next_renewal = now + self._settings.lease / 3
        self._postgresql.end()
        with self._lock:
            self._away = False
            for run in held:
                if run.job.id not in mine:
                    self._lose(run)
                elif mine[run.job.id]:
                    self._interrupt(run, "cancelled")
            self._lock.notify_all()

    def _watch(self, held: list[Run], now: float) -> None:
        for run in held:
            if run.interrupted_at is None:
                if now > run.started_at + self._time_limit(run.kind):
                    self._interrupt(run, "time_limit")
            elif now > run.interrupted_at + self._settings.cancel_grace + _ABANDON_SPARE and not run.abandoned:
                self._abandon(run)

    def _interrupt(self, run: Run, reason: Interrupt) -> None:
        if run.interrupt is None:
            run.interrupt, run.interrupted_at = reason, time.monotonic()

    def _lose(self, run: Run) -> None:
        """The job is not this run's any more: nothing that it says counts, and it is to end."""
        run.interrupt, run.interrupted_at = "lost", run.interrupted_at or time.monotonic()
        if run.end is not None:
            self._runs.discard(run)

    def _abandon(self, run: Run) -> None:
        """The handler does not end. Its job does, and its thread is left to itself."""
        log.error("a handler did not end when asked", job=str(run.job.id), kind=run.kind, asked=run.interrupt)
        self._interrupt(run, "given_back")
        run.abandoned = True
        self.abandoned += 1
        if run.interrupt == "given_back":
            run.end = run.ended(JobStatus.QUEUED, "given_back")
        elif run.interrupt == "lost":
            self._runs.discard(run)
        else:
            code = "time_limit" if run.interrupt == "time_limit" else "cancel_ignored"
            message = "the handler went on past its time limit and could not be ended"
            if code == "cancel_ignored":
                message = "the handler did not end after the cancel"
            run.end = run.ended(JobStatus.FAILED, code, error=Failure(code, message), counts=True)
        if run.thread is not None and run.outside.acquire(blocking=False):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(run.thread), ctypes.py_object(Abandoned))
            run.outside.release()

    # -- the connection

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _lost(self, error: DBAPIError) -> None:
        """PostgreSQL is away: handlers wait at their next yield, and nobody gets a job."""
        self._postgresql.begin(error.orig or error)
        self._disconnect()
        with self._lock:
            self._away = True
            wishes, self._wishes = self._wishes, []
            self._answer(wishes, [])

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
