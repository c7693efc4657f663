"""Not faster than eyes: what happens within a short while of a delivery waits, and leaves together."""

import asyncio
from collections.abc import Callable


class Pacer:
    """Calls `deliver` at once after a quiet moment, then at most every `window` seconds. Works in the running loop."""

    def __init__(self, window: float, deliver: Callable[[], None]) -> None:
        self.window = window
        self._deliver = deliver
        self._last = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    @property
    def pending(self) -> bool:
        """Something changed, of which nobody has been told yet."""
        return self._timer is not None

    def touch(self, *, urgent: bool = False) -> None:
        """Something changed; `urgent`: it shall not wait."""
        loop = asyncio.get_running_loop()
        if urgent or loop.time() >= self._last + self.window:
            self._fire(loop)
        elif self._timer is None:
            self._timer = loop.call_at(self._last + self.window, self._fire, loop)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        self.stop()
        self._last = loop.time()
        self._deliver()
