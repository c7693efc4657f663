"""All worker processes of this host or container: started together, looked after, and ended together."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from threading import Event
from typing import Literal

import structlog

from infra.supervisor import Keeper, stop_all
from infra.workers.worker import STILL, Worker
from services.worker.scratch import Scratch
from shared.settings import Settings

OVERTIME = 15.0
"""Seconds beyond the workers' own limits before they are ended."""

_REPORTS = "headway-workers-"
"""Directories in which workers report; one whose crew was killed is removed by the next."""

log = structlog.get_logger(__name__)


class Crew:
    def __init__(self, settings: Settings, queues: Sequence[str], processes: int) -> None:
        """So many processes for each queue."""
        self._patience = settings.drain_grace + settings.cancel_grace + OVERTIME
        self._reports = Scratch(prefix=_REPORTS)
        self._reports.open()
        self.workers = [
            Worker(f"worker {queue}", queue, self._reports.root / f"{queue}-{number}")
            for queue in queues
            for number in range(processes)
        ]
        self._keepers = [Keeper(worker, changed=lambda: None, say=log.warning) for worker in self.workers]
        self.leaving = False

    def start(self) -> None:
        self._reports.sweep()
        for keeper in self._keepers:
            keeper.start()

    def look(self) -> None:
        """To be called once a second: what stands still is ended, and so started again; orphans are buried."""
        for worker, keeper in zip(self.workers, self._keepers, strict=True):
            worker.look()
            if worker.still:
                log.error("a worker has stood still and is ended", name=worker.name, seconds=STILL, pid=keeper.pid)
                keeper.end()
        reap(self._keepers)

    def stop(self, hurry: Event) -> None:
        """They finish or give back what they run. `hurry`: without waiting."""
        self.leaving = True
        stop_all(self._keepers, self._patience, hurry)
        self.close()

    def close(self) -> None:
        """Removes what they wrote."""
        self._reports.close()

    @property
    def pids(self) -> list[int]:
        """Of those that run."""
        return [keeper.pid for keeper in self._keepers if keeper.pid]

    @property
    def status(self) -> Literal["ready", "not_ready", "draining"]:
        """Ready: every process takes jobs and reaches PostgreSQL."""
        if self.leaving:
            return "draining"
        good = all(worker.fresh and worker.state.taking and worker.state.postgresql for worker in self.workers)
        return "ready" if good else "not_ready"

    def reached(self, server: Literal["postgresql", "redis"]) -> Literal["ok", "away"]:
        """By all of them."""
        return "ok" if all(worker.fresh and getattr(worker.state, server) for worker in self.workers) else "away"


def reap(keepers: Sequence[Keeper]) -> None:
    """Buries processes that have ended and have no parent but us, who are process 1 in a container: what handlers
    started, and the worker died without.
    """
    with ExitStack() as stack:
        # or one that has just been started would be nobody's
        ours = {stack.enter_context(keeper.between_starts()) for keeper in keepers}
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None or ended.si_pid in ours:  # its keeper is about to ask how it ended
                    return
                os.waitpid(ended.si_pid, os.WNOHANG)
            except ChildProcessError:
                return
