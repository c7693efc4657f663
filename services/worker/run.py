"""A job that is running in this process: what its handler said since the last commit, and what is asked of it."""

import math
from collections.abc import Callable
from datetime import datetime
from threading import Lock
from typing import Any, Literal, ParamSpec, TypeVar, get_args
from uuid import UUID

from services.worker.values import Kept, kept
from shared.events import Artifact as Stored
from shared.events import Failure
from shared.job_updates import JobUpdate, NewLine
from shared.jobs import RUNNING_MAX, JobStatus
from shared.kinds.mask import Mask
from shared.texts import TEXT_MAX, clean, last_line
from shared.updates import Checkpoint, Items, Job, Level, Log, Metadata, Progress, Step, Update

Interrupt = Literal["cancelled", "time_limit", "given_back", "lost"]

LINES_MAX = 1000
BYTES_MAX = 2**20
"""What one job may hold in memory before its handler waits: lines, and characters of their texts."""

_URGENT_LINES = LINES_MAX // 2

_LEVELS = get_args(Level)

P = ParamSpec("P")
T = TypeVar("T")


class Interrupted(Exception):
    """Raised into the runner at a yield: the handler is to end."""

    def __init__(self, reason: Interrupt) -> None:
        super().__init__(reason)
        self.reason: Interrupt = reason


class Run:
    """Guarded by the ledger's lock, but for what never changes after the start."""

    def __init__(self, job: Job, kind: str, params: Any, token: UUID, failures: int, last_line: int) -> None:
        self.job = job
        self.kind = kind
        self.params = params
        self.token = token
        self.failures = failures
        self.mask = Mask(())
        """Of the job's secrets: goes over all that the handler says. Set before the handler is called."""
        self.interrupt: Interrupt | None = None
        self.interrupted_at: float | None = None
        """Monotonic seconds."""
        self.started_at = 0.0
        self.committed_at = -math.inf
        self.thread: int | None = None
        """The ident of the thread that runs the handler."""
        self.abandoned = False
        self.outside = Lock()
        """Held by the run's thread unless it is in the handler's code, the only place to raise anything in it: within
        the ledger's lock, or in a job that the thread runs next, an exception would do harm."""
        self.outside.acquire()
        self.artifacts: set[str] = set()
        """Names of those that the handler gave; for its own thread."""
        self.end: JobUpdate | None = None
        """Set when the attempt is over; the job has ended when this is committed."""
        self.urgent = False
        self.lines: list[NewLine] = []
        self.lines_dropped = 0
        self._bytes = 0
        self._last_line = last_line
        self._update = JobUpdate(id=job.id, token=token)
        self._changed = False

    def inside(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls the handler's code."""
        self.outside.release()
        try:
            return call(*args, **kwargs)
        finally:
            self.outside.acquire()  # an exception raised in this thread from outside comes up here at the latest

    @property
    def full(self) -> bool:
        return len(self.lines) >= LINES_MAX or self._bytes >= BYTES_MAX

    @property
    def waiting(self) -> bool:
        """Whether there is anything to commit; what a run says that has lost its job is not."""
        return self.interrupt != "lost" and (self._changed or self.end is not None)

    def noted(self, update: Update | Stored, *, max_metadata: int, max_result: int) -> Update | Stored | Kept:
        """What `say` wants of it; what takes its time is done here, without a lock. Raises Fatal; sizes in bytes."""
        if isinstance(update, Metadata | Checkpoint):
            return kept(update, self.mask.json, max_metadata=max_metadata, max_result=max_result)
        return update

    def say(self, update: Update | Stored | Kept, at: datetime, *, max_line: int, max_lines: int) -> None:
        """Takes note of what the handler yielded. Raises TypeError for anything that is no Update."""
        match update:
            case Progress(percent, message, items):
                self._progress(percent)
                if message is not None:
                    self._update.message = self.clean(message, TEXT_MAX)
                if items is not None:
                    self._update.items = _checked(items)
            case Step(name, percent):
                self._update.step = self.clean(name, TEXT_MAX)
                self._progress(percent)
                self.add_line("phase", name, at, max_line=max_line, max_lines=max_lines)
            case Log(text, level):
                if level not in _LEVELS:
                    raise TypeError(f"a log line's level is one of {', '.join(_LEVELS)}, not {level!r}")
                self.add_line(level, text, at, max_line=max_line, max_lines=max_lines)
            case Kept(metadata, checkpoint):
                self._update.metadata = self._update.metadata if metadata is None else metadata
                self._update.checkpoint = self._update.checkpoint if checkpoint is None else checkpoint
            case Stored():
                self._update.artifacts.append(update)
            case _:
                wanted = "Progress, Step, Log, Metadata, Checkpoint, Artifact or None"
                raise TypeError(f"a handler yields {wanted}, not {type(update).__name__}")
        self._changed = True

    def add_line(self, level: Level, text: str, at: datetime, *, max_line: int, max_lines: int) -> None:
        """The `max_lines`-th line of a job says that there are no more. `max_line` in bytes."""
        if self._last_line >= max_lines:
            self.lines_dropped += 1
            return
        self._last_line += 1
        if self._last_line == max_lines:
            level, text = "warn", last_line(max_lines)
        text = self.clean(text, max_line)
        self.lines.append(NewLine(self.job.id, self.job.attempt, self._last_line, at, level, text))
        self._bytes += len(text)
        self._changed = True
        if level in ("warn", "error") or len(self.lines) >= _URGENT_LINES:
            self.urgent = True

    def take(self) -> tuple[JobUpdate, list[NewLine]]:
        """What is to be committed now; the next notes begin anew."""
        update = self._update
        if self.end is not None:
            update.status, update.error, update.result = self.end.status, self.end.error, self.end.result
            update.delay, update.counts, update.reason = self.end.delay, self.end.counts, self.end.reason
        update.last_line = self._last_line
        lines, self.lines = self.lines, []
        self._update = JobUpdate(id=self.job.id, token=self.token, progress=update.progress)
        self._changed, self.urgent, self._bytes = False, False, 0
        return update, lines

    def ended(
        self,
        status: JobStatus,
        reason: str,
        *,
        error: Failure | None = None,
        result: bytes | None = None,
        delay: float | None = None,
        counts: bool = False,
    ) -> JobUpdate:
        """The end of this attempt, for `Ledger.finish`."""
        return JobUpdate(
            id=self.job.id,
            token=self.token,
            status=status,
            reason=reason,
            error=error,
            result=result,
            delay=delay,
            counts=counts,
        )

    def clean(self, text: str, limit: int) -> str:
        """What may be stored and shown of a text of the handler's; `limit` in bytes."""
        return clean(text, limit, self.mask)

    def _progress(self, percent: float | None) -> None:
        if percent is not None and not math.isnan(percent):
            self._update.progress = max(self._update.progress, int(min(max(percent, 0), RUNNING_MAX)))


def _checked(items: Items) -> Items:
    numbers = (items.done, items.failed, items.total)
    if not all(isinstance(number, int) and 0 <= number < 2**31 for number in numbers):
        raise TypeError(f"items are whole numbers from 0, not {numbers}")
    return items
