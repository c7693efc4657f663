"""Jobs started ahead: with jobs shorter than a commit, threads would else mostly wait for the next commit."""

from collections import deque
from collections.abc import Iterable

from services.worker.run import Run

MOST = 64
"""Jobs started at most before a thread is free for them."""

WAITS = 0.5
"""Seconds that such a job waits for a thread; then it is given back, for a worker that has one."""

_SHORT = 0.02
"""Seconds. With jobs that last longer nothing is started ahead: a commit more or less is nothing to them."""

_UNKNOWN = 1.0
"""Seconds that a run is taken to last until some have ended: long, so that nothing is started ahead."""

_SHORTEST = 0.0001
"""Seconds. No run takes less, whatever a clock says."""

_MEMORY = 16
"""Runs or commits after which one counts about a third in the mean."""


class Ahead:
    """Guarded by the ledger's lock. `threads`: how many run jobs."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._runs: deque[Run] = deque()
        self._run_takes = _UNKNOWN
        self._commit_takes = 0.0

    @property
    def room(self) -> int:
        """How many more to start: in all as many as the threads get through during one commit."""
        if self._run_takes > _SHORT:
            return 0
        during_one_commit = int(self._threads * self._commit_takes / self._run_takes)
        return max(0, min(MOST, during_one_commit) - len(self._runs))

    def __len__(self) -> int:
        return len(self._runs)

    def put(self, runs: Iterable[Run]) -> None:
        self._runs.extend(runs)

    def take(self) -> Run | None:
        """The one that was started first."""
        return self._runs.popleft() if self._runs else None

    def ran(self, seconds: float) -> None:
        self._run_takes = _mean(self._run_takes, seconds)

    def committed(self, seconds: float) -> None:
        self._commit_takes = _mean(self._commit_takes, seconds)

    def overdue(self, now: float) -> bool:
        """Whether threads are held by jobs that last longer than those before, and take nothing from here."""
        if not self._runs or now <= self._runs[0].started_at + WAITS:
            return False
        self._run_takes = _UNKNOWN  # the long ones have not ended, and so not been counted
        return True


def _mean(mean: float, seconds: float) -> float:
    return mean + (max(seconds, _SHORTEST) - mean) / _MEMORY
