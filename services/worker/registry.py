"""The registry: every two seconds a worker process says that it is there and how it is, and hears if it is to leave."""

import math
import os
import socket
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, TextClause
from uuid_utils.compat import uuid7

from services.worker.ledger import Ledger
from services.worker.loop import Loop
from shared import queries
from shared.outage import Outage
from shared.settings import Settings

_PERIOD = 2.0
"""Seconds between two beats; fewer where leases are shorter, for whoever is not heard of for a lease counts as lost."""

_SILENCE = 6.0
"""Seconds without an answer after which PostgreSQL counts as away."""

_FAREWELL = 1.0
"""Seconds that taking the row away may hold the process up. Whoever leaves without is forgotten after a while."""


class Registry:
    def __init__(self, engine: Engine, ledger: Ledger, settings: Settings, queue: str, kinds: Iterable[str]) -> None:
        """`kinds`: those that it has handlers for."""
        self._engine = engine
        self._ledger = ledger
        self._began = time.monotonic()
        self._told = {
            "id": uuid7(),
            "queue": queue,
            "kinds": sorted(kinds),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": own_version(),
            "threads": settings.threads,
        }
        self._draining = False
        self._leaving = False
        postgresql = Outage("postgresql", "registry")
        self._loop = Loop("registry", self._turn, min(_PERIOD, settings.lease / 4), postgresql=postgresql)
        self._heard_at = -math.inf
        self.drain_requested = False
        """Somebody wants this process to finish what it runs, and leave."""

    @property
    def postgresql_up(self) -> bool:
        """Whether it has answered lately: one that stands still says nothing."""
        return time.monotonic() - self._heard_at < _SILENCE

    def start(self) -> None:
        self._loop.start()
        self._loop.wake()

    def draining(self) -> None:
        """The process takes no more jobs: that is told at once."""
        self._draining = True
        self._loop.wake()

    def leave(self) -> None:
        """The process ends now, and its row with it if PostgreSQL answers in time."""
        self._leaving = True
        self._loop.wake()
        self._loop.join(_FAREWELL)

    def _turn(self) -> None:
        if self._leaving:
            self._loop.stop()
            self._execute(queries.LEAVE, {"id": self._told["id"]})
            return
        jobs = self._ledger.job_ids
        how = {
            "age": time.monotonic() - self._began,
            "running": len(jobs),
            "job_ids": jobs,
            "abandoned": self._ledger.abandoned,
            "memory": resident_memory(),
            "draining": self._draining,
        }
        # never taken back: its row may have been forgotten meanwhile, and with it that this was asked
        self.drain_requested |= self._execute(queries.BEAT, self._told | how)
        self._heard_at = time.monotonic()

    def _execute(self, statement: TextClause, parameters: dict[str, Any]) -> bool:
        with self._engine.begin() as connection:
            # a beat that is lost with the server is no loss
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            result = connection.execute(statement, parameters)
            return bool(result.scalar_one()) if result.returns_rows else False


def own_version() -> str:
    try:
        return version("headway")
    except PackageNotFoundError:  # run from a directory where it was never installed
        return "unknown"


def resident_memory() -> int:
    """Bytes of this process that are in memory; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
