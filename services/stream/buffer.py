"""The buffer: how much the long deliveries of a process may hold, so that slow readers cost bounded memory.

A short delivery goes to the kernel at once and holds nothing. A long one holds what is still to be sent, for as long as
its slowest reader takes. When that is too much for all of them together, whoever needs another one waits for its turn,
which is no more than reading slowly; and a reader that has not moved for a while loses its place to those who wait.
"""

import asyncio
import time
from collections.abc import Callable
from itertools import islice
from typing import Protocol
from weakref import WeakSet

from services.stream.delivery import Delivery

BUFFER = 256 * 2**20
"""Bytes, unless set."""

_TICK = 0.05
"""Seconds between two looks at whether there is room, while somebody waits for it."""

_CALLED = 8
"""Those who may begin in one of these: more megabytes a second than can be written."""

STUCK = 10.0
"""Seconds in which nobody in a delivery took a single chunk, and others wait: longer than a network hiccup."""


class Waiting(Protocol):
    """Whoever needs a long delivery."""

    def on_change(self) -> None:
        """It may be its turn."""


class Buffer:
    """`clock` gives seconds. The event loop is used only while somebody waits."""

    def __init__(self, size: int = BUFFER, clock: Callable[[], float] = time.monotonic) -> None:
        self.size = size
        self.held = 0
        """Bytes, as each delivery was estimated when it began."""
        self.clock = clock
        self._long: WeakSet[Delivery] = WeakSet()
        self._waiting: dict[Waiting, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def full(self) -> bool:
        return self.held >= self.size

    def hold(self, delivery: Delivery) -> None:
        self.held += delivery.size
        self._long.add(delivery)

    def release(self, size: int) -> None:
        self.held -= size

    def wait(self, one: Waiting) -> None:
        """It is called in its turn."""
        self._waiting[one] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK, self._look)

    def waits(self, one: Waiting) -> bool:
        return one in self._waiting

    def forget(self, one: Waiting) -> None:
        """It waits no longer."""
        self._waiting.pop(one, None)

    def _look(self) -> None:
        self._timer = None
        if self.full:
            self._make_room()
        if not self.full:
            for one in tuple(islice(self._waiting, _CALLED)):
                del self._waiting[one]
                one.on_change()
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(_TICK, self._look)

    def _make_room(self) -> None:
        before = self.clock() - STUCK
        for delivery in tuple(self._long):
            if delivery.divisible and delivery.asked < before:
                self._long.discard(delivery)
                delivery.lose()
