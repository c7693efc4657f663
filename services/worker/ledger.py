"""The ledger: the one thread of a worker process that writes.

Handlers' threads tell it what happened and ask for work; it groups what waits by batch, commits, publishes once, and
hands out what it claimed for all free threads together. See docs/worker.md.
"""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Any
from uuid import UUID, uuid4

import structlog
from msgspec import Struct, field
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError

from services.worker.ahead import Ahead
from services.worker.attempts import outcome_of, waited_for
from services.worker.leases import Leases
from services.worker.metrics import ATTEMPT_BOUNDS, COMMIT_BOUNDS, WAIT_BOUNDS, Metrics
from services.worker.run import Interrupt, Interrupted, Run
from services.worker.running import Running
from shared import queries
from shared.changes import Change, JobUpdate, NewLine, NoSuchBatch
from shared.channels import FORMAT, Frame, Publisher
from shared.database import autocommitting
from shared.events import Artifact as Stored
from shared.events import Failure
from shared.jobs import JobStatus
from shared.outage import Outage
from shared.settings import Limit, Settings
from shared.updates import Job, Level, Update

THROTTLE = 0.1
"""Seconds between two commits of one job's progress."""

_TICK = 0.5
"""Seconds between two looks at leases, cancellations and time limits."""

_RETRY = (0.05, 1.0)
"""Seconds between attempts to reach PostgreSQL: first and longest."""

log = structlog.get_logger(__name__)


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
        limits: Mapping[str, Limit] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """`time_limit`: of a kind. `limits`: of kinds that have some."""
        self._engine = engine
        self._publisher = publisher
        self._settings = settings
        # elsewhere, they come where the runner says
        self._uploads = settings.uploads if isinstance(settings.uploads, Path) else Path()
        self._metrics = metrics or Metrics()
        limits = limits or {}
        self._claims = {
            "queue": queue,
            "lease": settings.lease,
            "owner_limit": settings.owner_concurrency,
            "kinds": list(limits),
            "kind_limits": [limit.concurrency for limit in limits.values()],
            "kind_rates": [limit.rate for limit in limits.values()],
        }
        self._connection: Connection | None = None
        self._lock = Condition()
        self._wishes: list[Wish] = []
        self._runs = Running(settings.cancel_grace, time_limit, self._metrics)
        self._leases = Leases(settings.lease)
        self._ahead = Ahead(settings.threads)
        self._unsure: list[UUID] = []
        """The tokens of claims whose outcome is unknown."""
        self._claiming = True
        self._closing = False
        self._away = False
        self._postgresql = Outage("postgresql", "ledger")
        self._next_tick = 0.0
        self._thread = Thread(target=self._loop, name="ledger", daemon=True)
        self.more = False
        """Whether the last claim got all it asked for: there is probably more."""
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

    def record(self, run: Run, update: Update | Stored | None) -> None:
        """Takes note of an update. Waits while memory is full or PostgreSQL away; raises Interrupted to end the run."""
        if update is None:  # without the lock, or a handler that says it often would keep it from others
            if run.interrupt:
                raise Interrupted("lost" if run.abandoned else run.interrupt)
            return
        limits = self._settings
        noted = run.noted(update, max_metadata=limits.max_metadata, max_result=limits.max_result)
        with self._lock:
            while not run.interrupt and not run.abandoned and (run.full or (self._away and run.waiting)):
                self._lock.wait()
            if run.abandoned:
                raise Interrupted("lost")
            if run.interrupt:
                raise Interrupted(run.interrupt)
            waiting = run.waiting
            run.say(noted, datetime.now(UTC), max_line=limits.max_line, max_lines=limits.max_lines)
            if run.urgent or not waiting:  # else the thread knows already when to wake up
                self._lock.notify_all()

    def finish(self, run: Run, end: JobUpdate | None, *, line: tuple[Level, str] | None = None) -> None:
        """The attempt is over (None: it is no longer ours to end). Does not wait for the commit."""
        with self._lock:
            if run.abandoned:
                self._runs.ended_abandoned()
                return
            lasted = time.monotonic() - run.started_at
            self._ahead.ran(lasted)
            self._metrics.of(run.kind).seconds.add(ATTEMPT_BOUNDS, lasted)
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

    def standing(self) -> dict[str, int]:
        """How it is with this process, as it reports it: see report.py."""
        with self._lock:
            return {
                "running": sum(run.thread is not None and run.end is None for run in self._runs),
                "ahead": len(self._ahead),
                "held": self._runs.abandoned,
                "buffered": sum(len(run.lines) for run in self._runs),
            }

    @property
    def job_ids(self) -> list[UUID]:
        """Of what threads are at, longest first."""
        with self._lock:
            held = [run for run in self._runs.held() if run.thread is not None and run.interrupt != "lost"]
        return [run.job.id for run in sorted(held, key=lambda run: run.started_at)]

    @property
    def abandoned(self) -> int:
        """Threads whose handler did not end when asked, and still has not."""
        return self._runs.abandoned

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
                self._runs.interrupt(run, reason)
            self._lock.notify_all()

    def give_up(self) -> None:
        """What still runs is given back although its handler goes on; nothing that it says counts any more."""
        with self._lock:
            for run in self._runs.held():
                self._runs.abandon(run)
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
        begun = time.monotonic()
        ending = [run.job.id for batch in work.values() for run, _ in batch.updates if run.end]
        try:
            connection = self._connect()
            with autocommitting(connection), connection.begin():
                self._release_unsure(connection)
                unsure = [*self._unsure, token]
                rows = connection.execute(
                    queries.CLAIM,
                    {"jobs": jobs, "token": token, "ending": ending, **self._claims},
                ).all()
        except DBAPIError as error:
            self._unsure = unsure
            self._metrics.claims["failed"] += 1
            self._lost(error)
            return None
        self._unsure = []
        self._metrics.claims["found" if rows else "empty"] += 1
        self._metrics.claim_seconds += time.monotonic() - begun
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
                rows += change.start(allowed, work.token, self._settings.lease)
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
            self._runs.interrupt(run, "lost")
        return self._commit_surely(batch_id, Work(updates=[(run, end)]))

    def _settle(self, work: Work, accepted: set[UUID]) -> None:
        now = time.monotonic()
        with self._lock:
            for run, update in work.updates:
                run.committed_at = now
                if update.status is not JobStatus.PROCESSING:
                    self._runs.discard(run, outcome_of(update) if run.job.id in accepted else "lost")
                elif run.job.id not in accepted:
                    self._runs.lose(run)

    def _begin(self, batch: Any, rows: list[Any], token: UUID | None) -> list[Run]:
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
        with self._lock:
            self._runs.begin(runs)
        return runs

    def _drop(self, work: Work) -> None:
        with self._lock:
            for run, update in work.updates:
                self._runs.lose(run)
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
            held = self._runs.held()
            self._runs.watch(now)
        if not held and not self._away and not self._unsure:
            return
        try:
            connection = self._connect()
            with connection.begin():
                mine = self._leases.look(connection, held, now)
                self._release_unsure(connection)  # if they were all there was to do, nobody asks for more
        except DBAPIError as error:
            self._lost(error)
            return
        self._unsure = []
        self._leases.committed(now)
        self._postgresql.end()
        with self._lock:
            self._away = False
            self._runs.told(held, mine)
            self._lock.notify_all()

    # -- the connection

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _lost(self, error: DBAPIError) -> None:
        """PostgreSQL is away: handlers wait at their next yield, and nobody gets a job."""
        self._metrics.failures += 1
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
