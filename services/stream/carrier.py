"""A carrier: what a connection tells its reader next, and when. How the bytes travel, it does not know.

`connection.py` has one on a socket of its own, `plain.py` one that speaks plain ASGI.
"""

import time
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
    """Of one connection. `heartbeat` is seconds of silence; `end` is by the clock of the event loop."""

    heartbeat: float
    end: float
    reason: TimeoutReason


class Carrier:
    """Of one viewer, until it is `closed`: takes turns in the hub's pump, and stands on its wheel."""

    __slots__ = ("_hub", "_limits", "closed", "queued", "viewer")

    def __init__(self, viewer: Viewer, limits: Limits, hub: "Hub", now: float) -> None:
        self.viewer = viewer
        self.queued = False
        self.closed = False
        self._limits = limits
        self._hub = hub
        viewer.spoke = now

    def begin(self) -> None:
        """From now on it hears of changes; the first are there already."""
        self.viewer.on_change = self.wake
        self._hub.wheel.add(self, min(self.viewer.spoke + self._limits.heartbeat, self._limits.end))
        self.wake()

    def wake(self) -> None:
        """There may be something to say."""
        if not self.queued:
            self._hub.pump.add(self)

    def due(self, now: float) -> float | None:
        """For the wheel: a heartbeat, or the end of its life, may have come."""
        if self.closed:
            return None
        limits = self._limits
        if now >= limits.end:
            if now >= limits.end + limits.heartbeat and self.stuck:
                self.cut()  # it was asked to leave, and does not even read that
                return None
            self.wake()
            return now + limits.heartbeat
        silent = self.viewer.topic.audience.spoke(self.viewer) + limits.heartbeat
        if now >= silent:
            self.wake()
            silent = now + limits.heartbeat
        return min(silent, limits.end)

    def utterance(self, now: float) -> bytes | None:
        """What is to be written next, at most frames.CHUNK bytes; None: nothing at present."""
        viewer, limits = self.viewer, self._limits
        if now >= limits.end and viewer.between and not viewer.over:
            viewer.over = True
            chunk: bytes | None = timeout_event(limits.reason)
        else:
            chunk = viewer.pull()
            if chunk is None and now >= viewer.spoke + limits.heartbeat and viewer.between and not viewer.over:
                chunk = ping_event(time.time_ns() // 1_000_000)
        if chunk is not None:
            viewer.spoke = now
        return chunk

    @property
    def stuck(self) -> bool:
        """Nothing can be written at present."""
        raise NotImplementedError

    def turn(self, now: float) -> None:
        """For the pump."""
        raise NotImplementedError

    def cut(self) -> None:
        """End it at once, whatever was still to be sent."""
        raise NotImplementedError
