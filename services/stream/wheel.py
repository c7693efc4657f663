"""The timer wheel: heartbeats and lifetimes of all connections on one timer, looked at only when they might be due.

A delivery costs it nothing: whoever is looked at says itself when to look again.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

import structlog

from services.stream.metrics import UNCOUNTED, Metrics

log = structlog.get_logger(__name__)


class Due(Protocol):
    """What stands on the wheel."""

    def due(self, now: float) -> float | None:
        """When to be looked at again, by the loop's time; None: not any more."""

    def cut(self) -> None:
        """End it at once."""


class Wheel:
    """`tick`: seconds; how late it may be. How late the event loop comes to it is counted."""

    def __init__(self, tick: float, metrics: Metrics = UNCOUNTED) -> None:
        self._tick = tick
        self._metrics = metrics
        self._slots: dict[int, list[Due]] = {}
        self._turned = 0
        """The last slot that was looked at."""
        self._timer: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[Due]:
        """Whoever stands on it, those who have left but were not looked at since included."""
        for slot in list(self._slots.values()):
            yield from slot

    def start(self) -> None:
        """In the running loop."""
        self._turned = int(asyncio.get_running_loop().time() / self._tick)
        self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._slots.clear()

    def add(self, one: Due, when: float) -> None:
        slot = max(int(when / self._tick), self._turned) + 1
        self._slots.setdefault(slot, []).append(one)

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_at((self._turned + 1) * self._tick, self._turn)

    def _turn(self) -> None:
        now = asyncio.get_running_loop().time()
        self._metrics.came_late(now - (self._turned + 1) * self._tick)
        reached = max(int(now / self._tick), self._turned + 1)
        passed = range(self._turned + 1, reached + 1)
        self._turned = reached
        self._arm()
        for slot in passed:
            for one in self._slots.pop(slot, ()):
                try:
                    when = one.due(now)
                except Exception:  # one connection must not take the heartbeats of the others along
                    log.exception("a connection could not be looked at")
                    with suppress(Exception):
                        one.cut()
                    continue
                if when is not None:
                    self.add(one, when)
