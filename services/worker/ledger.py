"""The ledger: what handlers' threads say and wish for, kept until the writer has stored it and has work for them.

One of each in a worker process. See docs/worker.md.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from threading import Condition, Event
from uuid import UUID

from msgspec import Struct, field

from services.worker.ahead import Ahead
from services.worker.attempts import outcome_of
from services.worker.metrics import ATTEMPT_BOUNDS, Metrics
from services.worker.run import Interrupt, Interrupted, Run
from services.worker.running import Running
from services.worker.work import Work
from shared.events import Artifact as Stored
from shared.job_updates import JobUpdate
from shared.jobs import JobStatus
from shared.settings import Settings
from shared.updates import Level, Update

THROTTLE = 0.1
"""Seconds between two commits of one job's progress."""


class Wish(Struct):
    """A thread that asks for a next job. Answered when `done` is set; `run` None: nothing is runnable."""

    done: Event = field(default_factory=Event)
    run: Run | None = None
    repeated: bool = False


class Round(Struct):
    """What the writer is to do next."""

    wishes: list[Wish]
    work: dict[UUID, Work]
    """By batch."""
    wanted: int
    """Jobs to be claimed, at most."""


class Ledger:
    """For the handlers' threads, the process and the writer: each method takes the lock."""

    def __init__(self, settings: Settings, time_limit: Callable[[str], float], metrics: Metrics | None = None) -> None:
        """`time_limit`: of a kind."""
        self._settings = settings
        self._metrics = metrics or Metrics()
        self._lock = Condition()
        self._wishes: list[Wish] = []
        self._runs = Running(settings.cancel_grace, time_limit, self._metrics)
        self._ahead = Ahead(settings.threads)
        self._claiming = True
        self.closing = False
        """The writer ends once there is nothing more to store."""
        self.away = False
        """PostgreSQL does not answer: handlers wait at their next yield, and nobody gets a job."""
        self.more = False
        """Whether the last claim got all it asked for: there is probably more."""
        self.broken = False
        """The writer died of an unexpected error: the process has to be replaced."""

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
            if not self._claiming or self.away or self.broken:
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
            while not run.interrupt and not run.abandoned and (run.full or (self.away and run.waiting)):
                self._lock.wait()
            if run.abandoned:
                raise Interrupted("lost")
            if run.interrupt:
                raise Interrupted(run.interrupt)
            waiting = run.waiting
            run.say(noted, datetime.now(UTC), max_line=limits.max_line, max_lines=limits.max_lines)
            if run.urgent or not waiting:  # else the writer knows already when to wake up
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

    def close(self) -> None:
        """The writer is to store what waits, and end."""
        with self._lock:
            self._claiming, self.closing = False, True
            self._lock.notify_all()

    # -- for the writer

    def next_round(self, until: float) -> Round | None:
        """Waits until there is something to do, or it is `until` by the monotonic clock. None: the writer is to end."""
        with self._lock:
            while not ((due := self._due()) or self._wishes or time.monotonic() >= until):
                if self.closing and not self._runs:
                    return None
                self._lock.wait(self._until_due(until))
            wishes, self._wishes = self._wishes, []
            work: dict[UUID, Work] = {}
            for run in due:
                update, lines = run.take()
                batch = work.setdefault(run.job.batch_id, Work())
                batch.updates.append((run, update))
                batch.lines += lines
            wanted = len(wishes) + (self._ahead.room if self._runs else 0) if self._claiming else 0
            return Round(wishes, work, wanted)

    def stored(self, work: Work, accepted: set[UUID], runs: Sequence[Run]) -> None:
        """It is committed. `accepted`: the jobs whose updates count; `runs`: what was started along with them."""
        now = time.monotonic()
        with self._lock:
            for run, update in work.updates:
                run.committed_at = now
                if update.status is not JobStatus.PROCESSING:
                    self._runs.discard(run, outcome_of(update) if run.job.id in accepted else "lost")
                elif run.job.id not in accepted:
                    self._runs.lose(run)
            self._runs.begin(runs)
            self.away = False
            self._lock.notify_all()

    def drop(self, work: Work) -> None:
        """The batch is not there any more."""
        with self._lock:
            for run, update in work.updates:
                self._runs.lose(run)
                if update.status is not JobStatus.PROCESSING:
                    self._runs.discard(run)

    def interrupt(self, run: Run, reason: Interrupt) -> None:
        """Asks its handler to end at its next yield."""
        with self._lock:
            self._runs.interrupt(run, reason)

    def hand_out(self, this: Round, started: Iterable[Run], lasted: float) -> None:
        """The end of a round: what was started goes to those who wished for it. `lasted`: seconds, of its commits."""
        with self._lock:
            if this.work:
                self._ahead.committed(lasted)
            self._ahead.put(started)
            if not self._claiming:  # the process began to leave meanwhile: these are not begun any more
                self._give_back_unbegun()
            wishes = this.wishes
            runs = [run for run in (self._ahead.take() for _ in wishes) if run is not None]
            if any(run.end for batch in this.work.values() for run, _ in batch.updates):
                # the claim came before these ends were committed: a limit may have room now
                first = [wish for wish in wishes[len(runs) :] if not wish.repeated]
                self._wishes += first
                wishes = wishes[: len(runs)] + [wish for wish in wishes[len(runs) :] if wish.repeated]
                for wish in first:
                    wish.repeated = True
            self._answer(wishes, runs)
            self._lock.notify_all()

    def watch(self, now: float) -> list[Run]:
        """Ends what is to end by now, and gives up what does not; those whose attempts go on."""
        with self._lock:
            if self._ahead.overdue(now):
                self._give_back_unbegun()
            held = self._runs.held()
            self._runs.watch(now)
            return held

    def told(self, held: Iterable[Run], mine: dict[UUID, bool]) -> None:
        """What PostgreSQL says of these: see Running."""
        with self._lock:
            self.away = False
            self._runs.told(held, mine)
            self._lock.notify_all()

    def lose_postgresql(self) -> None:
        """Until something is stored, or PostgreSQL tells of what runs."""
        with self._lock:
            self.away = True
            wishes, self._wishes = self._wishes, []
            self._answer(wishes, [])

    def fail(self) -> None:
        """There is no writer any more."""
        with self._lock:
            self.broken = True
            self._answer(self._wishes, [])
            self._lock.notify_all()

    def _due(self) -> list[Run]:
        now = time.monotonic()
        return [
            run for run in self._runs if run.waiting and (run.end or run.urgent or now >= run.committed_at + THROTTLE)
        ]

    def _until_due(self, until: float) -> float:
        times = [run.committed_at + THROTTLE for run in self._runs if run.waiting]
        return max(0.0, min([*times, until]) - time.monotonic())

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
