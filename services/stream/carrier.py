"""A carrier: what a connection tells its reader next, and when. How the bytes travel, it does not know.

`connection.py` has one on a socket of its own, `plain.py` one that speaks plain ASGI.
"""

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from msgspec import Struct

from services.stream.frames import ping_event, timeout_event
from services.stream.viewer import Viewer
from shared.events import TimeoutReason, sse_retry

if TYPE_CHECKING:
    from services.stream.hub import Hub


GREETING = sse_retry(2000)
"""What every stream begins with: milliseconds after which an EventSource that was cut off connects again."""


class Limits(Struct, frozen=True, gc=False):
    """Of one connection. `end` is by the clock of the event loop."""

    end: float
    reason: TimeoutReason


class Carrier(ABC):
    """Of one viewer, until it is `closed`: takes turns in the hub's pump, and stands on its wheel."""

    __slots__ = ("_end", "_hub", "_reason", "closed", "lost", "queued", "viewer")

    def __init__(self, viewer: Viewer, limits: Limits, hub: "Hub", now: float) -> None:
        self.viewer = viewer
        self.queued = False
        self.closed = False
        """Nothing more will be said."""
        self.lost = False
        """The connection has ended."""
        self._end = limits.end
        self._reason = limits.reason
        self._hub = hub
        viewer.spoke = now

    def begin(self) -> None:
        """From now on it hears of changes; the first are there already."""
        self._hub.metrics.opened["events"] += 1
        self._hub.metrics.bytes += len(GREETING)
        self.viewer.carrier = self
        self._hub.wheel.add(self, min(self.viewer.spoke + self._hub.heartbeat, self._end))
        self.wake()

    def wake(self) -> None:
        """There may be something to say."""
        if not self.queued:
            self._hub.pump.add(self)

    def due(self, now: float) -> float | None:
        """For the wheel: a heartbeat, or the end of its life, may have come."""
        if self.lost:
            return None
        if self.closed:
            if now >= self.viewer.spoke + self._hub.heartbeat:
                self.cut()  # it was told the end, and does not take that
                return None
            return now + self._hub.heartbeat
        if self.viewer.given_up:
            self.cut()
            return None
        heartbeat = self._hub.heartbeat
        if now >= self._end:
            if now >= self._end + heartbeat and self.stuck:
                self.cut()  # it was asked to leave, and does not even read that
                return None
            self.wake()
            return now + heartbeat
        silent = self.viewer.topic.audience.spoke(self.viewer) + heartbeat
        if now >= silent:
            self.wake()
            silent = now + heartbeat
        return min(silent, self._end)

    def utterance(self, now: float) -> bytes | None:
        """What is to be written next, at most frames.CHUNK bytes; None: nothing at present."""
        viewer = self.viewer
        if now >= self._end and viewer.between and not viewer.over:
            viewer.over = True
            chunk: bytes | None = timeout_event(self._reason)
            self._count_end(self._reason)
        else:
            chunk = viewer.pull()
            if viewer.over:
                self._count_end("stuck" if chunk is None else viewer.dismissed or "finished")
            if chunk is None and now >= viewer.spoke + self._hub.heartbeat and viewer.between and not viewer.over:
                chunk = ping_event(time.time_ns() // 1_000_000)
        if chunk is not None:
            viewer.spoke = now
            self._hub.metrics.bytes += len(chunk)
        return chunk

    def gone(self, error: Exception | None = None) -> None:
        """The connection has ended. `error`: the kernel gave it up."""
        self.closed = self.lost = True
        if not self.viewer.over:
            self._count_end("stuck" if self.stuck or isinstance(error, TimeoutError) else "gone")

    def _count_end(self, reason: str) -> None:
        self._hub.metrics.closed["events"][reason] += 1

    @property
    @abstractmethod
    def stuck(self) -> bool:
        """Nothing can be written at present."""

    @abstractmethod
    def turn(self, now: float) -> None:
        """For the pump."""

    @abstractmethod
    def cut(self) -> None:
        """End it at once, whatever was still to be sent."""
