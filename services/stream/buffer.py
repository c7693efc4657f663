"""The buffer: how much the long deliveries of a process may hold, so that slow readers cost bounded memory.

A short delivery goes to the kernel at once and holds nothing. A long one holds what is still to be sent, for as long as
its slowest reader takes. When that is too much for all of them together, whoever needs another one waits for its turn,
which is no more than reading slowly, and nobody overtakes those who wait; and whoever has not moved for a while loses
its room to them, whatever it reads.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

from services.stream.delivery import Delivery

BUFFER = 256 * 2**20
"""Bytes, unless set."""

_TICK = 0.05
"""Seconds between two looks at whether there is room, while somebody waits for it."""

_CALLED = 8
"""Those who may begin in one of these: more megabytes a second than can be written."""

_ANSWER = 1.0
"""Seconds for those who are called to come, which one whose connection is full cannot: then others are next."""

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
        self.waiting: dict[Waiting, float | None] = {}
        """In the order in which they came, each with the time when it was called; None: it was not."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def full(self) -> bool:
        return self.held >= self.size

    def hold(self, delivery: Delivery) -> None:
        self.held += delivery.size
        self._long.add(delivery)

    def release(self, size: int) -> None:
        self.held -= size

    def admits(self, one: Waiting | None) -> bool:
        """Whether it may begin a long delivery: there is room, and nobody came before it. None: who can only look."""
        if self.full:
            return False
        return not self.waiting or (one is not None and self.waiting.get(one) is not None)

    def wait(self, one: Waiting) -> None:
        """It is called in its turn; who was called, and found no room after all, is where it was."""
        self.waiting[one] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK, self._look)

    def waits(self, one: Waiting) -> bool:
        """And was not called yet."""
        return one in self.waiting and self.waiting[one] is None

    def forget(self, one: Waiting) -> None:
        """It waits no longer."""
        self.waiting.pop(one, None)

    def _look(self) -> None:
        self._timer = None
        now = self.clock()
        if self.full:
            self._make_room(now - STUCK)
        following, absent = [], []
        for one, called in self.waiting.items():
            if called is None:
                following.append(one)
            elif called < now - _ANSWER:
                absent.append(one)
            if len(following) == _CALLED:
                break
        for one in absent:
            del self.waiting[one]
        if not self.full:
            for one in following:
                self.waiting[one] = now
                one.on_change()
        if self.waiting:
            self._timer = asyncio.get_running_loop().call_later(_TICK, self._look)

    def _make_room(self, before: float) -> None:
        for delivery in tuple(self._long):
            if delivery.asked < before:
                self._long.discard(delivery)
                delivery.lose()
