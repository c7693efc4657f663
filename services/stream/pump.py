"""The pump: connections that have something to write take turns, so that however many there are the loop stays free."""

import asyncio
from collections import deque
from time import perf_counter
from typing import Protocol

import structlog

from services.stream.metrics import UNCOUNTED, Metrics

SLICE = 0.003
"""Seconds of writing, after which everybody else in the loop has a turn: a fan-out to thousands is no stall."""

_LOOK = 8
"""Turns between two looks at the clock; a turn is a few microseconds, with a long chunk tens of them."""

log = structlog.get_logger(__name__)


class Turning(Protocol):
    """Who takes turns. Slots for both are the implementor's: there are as many of them as viewers."""

    queued: bool
    """In the queue already."""

    def turn(self, now: float) -> None:
        """Write one chunk at most; `now` is the loop's time."""

    def cut(self) -> None:
        """Something went wrong in its turn."""


class Pump:
    """Works in the loop that runs when it is first used. How late that comes to it is counted: whatever works for long
    in one go keeps everybody else waiting.
    """

    def __init__(self, metrics: Metrics = UNCOUNTED) -> None:
        self._metrics = metrics
        self._waiting: deque[Turning] = deque()
        self._running = False
        self._due = 0.0

    def add(self, one: Turning) -> None:
        """It shall have a turn; asking twice before that gives one."""
        if one.queued:
            return
        one.queued = True
        self._waiting.append(one)
        if not self._running:
            self._schedule(asyncio.get_running_loop())

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._running = True
        self._due = perf_counter()
        loop.call_soon(self._run)

    def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._take_turns(loop.time())
        finally:  # whatever happens, those who wait have their turn
            self._running = False
            if self._waiting:
                self._schedule(loop)

    def _take_turns(self, now: float) -> None:
        waiting = self._waiting
        begin = perf_counter()  # uvloop's clock counts milliseconds
        self._metrics.came_late(begin - self._due)
        end = begin + SLICE
        while waiting:
            for _ in range(min(_LOOK, len(waiting))):
                one = waiting.popleft()
                one.queued = False
                try:
                    one.turn(now)
                except Exception:  # one connection must not take the others along
                    log.exception("a connection's turn failed")
                    one.cut()
            if perf_counter() >= end:
                break
