"""How late the event loop is: whatever works for long in one go keeps everybody else waiting."""

import asyncio

from services.stream.metrics import Metrics

PERIOD = 0.1
"""Seconds between two looks. A stall that is longer than this and `LATE` together is always seen, a shorter one by
chance: looking a hundred times a second was a third of what ten events a second to a thousand viewers cost."""

LATE = 0.02
"""Seconds by which a look may come late."""


class StallWatch:
    """Of the loop in which it is started. That the machine gave this process no time counts too."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._again(asyncio.get_running_loop())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        late = loop.time() - self._due
        self._metrics.longest_stall = max(self._metrics.longest_stall, late)
        if late > LATE:
            self._metrics.stalls += 1
        self._again(loop)

    def _again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + PERIOD
        self._timer = loop.call_at(self._due, self._look)
