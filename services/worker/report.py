"""What a worker process tells whoever keeps it alive: a file, written anew each second by its main loop.

A file and no port: it costs the process nothing when nobody asks, what it counted outlives it, and a process that
stands still says so by saying nothing.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from services.worker.metrics import Metrics

PERIOD = 1.0
"""Seconds between two reports."""


class State(Struct):
    """How it is just now. All False and 0: it has not begun yet, or is about to end."""

    taking: bool = False
    """It takes jobs."""
    postgresql: bool = False
    redis: bool = False
    """Whether they answer."""
    threads: int = 0
    running: int = 0
    """Jobs that threads are at."""
    ahead: int = 0
    """Jobs that are started and wait for a thread."""
    held: int = 0
    """Threads whose handler did not end when asked."""
    buffered: int = 0
    """Log lines that wait to be committed."""
    memory: int = 0
    """Bytes."""


class Report(Struct):
    state: State
    metrics: Metrics
    cpu: float
    """Seconds of processor time that the process has taken."""


class Reporter:
    """Called again and again by the main loop, and by nobody else: what it says is that this loop turns."""

    def __init__(self, path: Path | None, look: Callable[[], State], metrics: Metrics) -> None:
        """`look`: takes the locks that the process's work takes. Nothing is written without a `path`."""
        self._path = path
        self._look = look
        self._metrics = metrics
        self._next = 0.0

    def turn(self) -> None:
        """Writes a report, if it is time."""
        now = time.monotonic()
        if self._path is not None and now >= self._next:
            self._next = now + PERIOD
            self._write(self._path, self._look())

    def end(self) -> None:
        """The last one: what was counted until now, and that nothing is done any more."""
        if self._path is not None:
            self._write(self._path, State())

    def _write(self, path: Path, state: State) -> None:
        data = msgspec.json.encode(Report(state, self._metrics, time.process_time()))
        with suppress(OSError):  # no space, say; that the loop turns is told all the same
            new = path.with_suffix(".new")
            new.write_bytes(data)
            new.replace(path)
        with suppress(OSError):
            os.utime(path)


_decode = msgspec.json.Decoder(Report).decode


def read(path: Path) -> Report | None:
    """None: there is none, or none that can be read."""
    try:
        return _decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None
