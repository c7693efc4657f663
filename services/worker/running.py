"""The jobs that run in this process, and looking after them: who is to end, and who does not."""

import ctypes
import time
from collections.abc import Callable, Iterable, Iterator
from uuid import UUID

import structlog

from services.worker.metrics import Metrics, Outcome
from services.worker.run import Interrupt, Run
from shared.events import Failure
from shared.jobs import JobStatus

_SPARE = 1.0
"""Seconds on top of the grace, for a handler that ends just in time."""

log = structlog.get_logger(__name__)


class Abandoned(BaseException):
    """Raised asynchronously in a thread whose handler did not end when asked: it may get out of a loop that way."""


class Running:
    """Guarded by the ledger's lock. `grace`: seconds that a handler has to end; `time_limit`: a kind's, in seconds."""

    def __init__(self, grace: float, time_limit: Callable[[str], float], metrics: Metrics | None = None) -> None:
        self._grace = grace
        self._time_limit = time_limit
        self._metrics = metrics or Metrics()
        self._runs: set[Run] = set()
        self.abandoned = 0
        """Threads whose handler did not end when asked, and still has not."""

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def begin(self, runs: Iterable[Run]) -> None:
        """They were started. One of the same job that is here already is not that any more: its lease was over, nobody
        had told it, and this process got the job again.
        """
        runs = list(runs)
        ids = {run.job.id for run in runs}
        for run in [run for run in self._runs if run.job.id in ids]:
            self.lose(run)
        self._runs.update(runs)
        for run in runs:
            self._metrics.of(run.kind).started += 1

    def discard(self, run: Run, outcome: Outcome = "lost") -> None:
        """It is over, if it was not already."""
        if run in self._runs:
            self._runs.remove(run)
            counted = self._metrics.of(run.kind)
            counted.ended[outcome] += 1
            self._metrics.lines_dropped += run.lines_dropped

    def held(self) -> list[Run]:
        """Those whose attempt is not over."""
        return [run for run in self._runs if run.end is None]

    def watch(self, now: float) -> None:
        """Ends what is beyond its time limit, and gives up what does not end."""
        for run in self.held():
            if run.interrupted_at is None:
                if now > run.started_at + self._time_limit(run.kind):
                    self.interrupt(run, "time_limit")
            elif now > run.interrupted_at + self._grace + _SPARE and not run.abandoned:
                self.abandon(run)

    def told(self, asked: Iterable[Run], mine: dict[UUID, bool]) -> None:
        """What the database says of those that were asked after: which still run here, and whether they are to end."""
        for run in asked:
            if run.job.id not in mine:
                self.lose(run)
            elif mine[run.job.id]:
                self.interrupt(run, "cancelled")

    def interrupt(self, run: Run, reason: Interrupt) -> None:
        """Its handler is to end at its next yield. The first reason counts."""
        if run.interrupt is None:
            run.interrupt, run.interrupted_at = reason, time.monotonic()

    def lose(self, run: Run) -> None:
        """The job is not this run's any more: nothing that it says counts, and it is to end."""
        run.interrupt, run.interrupted_at = "lost", run.interrupted_at or time.monotonic()
        if run.end is not None:
            self.discard(run)

    def abandon(self, run: Run) -> None:
        """The handler does not end. Its job does, and its thread is left to itself."""
        asked = run.interrupt
        self.interrupt(run, "given_back")
        run.abandoned = True
        self.abandoned += 1
        self._metrics.abandoned += 1
        log.error(
            "a handler did not end when asked",
            job=str(run.job.id),
            kind=run.kind,
            asked=asked,
            abandoned=self.abandoned,
        )
        if run.interrupt == "given_back":
            run.end = run.ended(JobStatus.QUEUED, "given_back")
        elif run.interrupt == "lost":
            self.discard(run)
        else:
            code = "time_limit" if run.interrupt == "time_limit" else "cancel_ignored"
            message = "the handler went on past its time limit and could not be ended"
            if code == "cancel_ignored":
                message = "the handler did not end after the cancel"
            run.end = run.ended(JobStatus.FAILED, code, error=Failure(code, message), counts=True)
        if run.thread is not None and run.outside.acquire(blocking=False):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(run.thread), ctypes.py_object(Abandoned))
            run.outside.release()

    def ended_abandoned(self) -> None:
        """The handler of one that was abandoned has ended after all."""
        self.abandoned -= 1
