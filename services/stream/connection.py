"""A connection that was handed over: one viewer on one socket, and nothing else.

It says no more than what the kernel takes at once: what it cannot write it has not pulled, so a slow reader holds one
chunk.
"""

import asyncio

from services.stream.carrier import GREETING, Carrier, Limits
from services.stream.hub import Hub
from services.stream.viewer import Viewer
from shared.web.access import tell_request
from shared.web.handover import Handover


class Connection(Carrier, asyncio.Protocol):
    """`now`, by the loop's clock: when it was asked for. `route`: for the log."""

    __slots__ = ("_began", "_fd", "_owed", "_paused", "_route", "_transport")

    def __init__(self, viewer: Viewer, limits: Limits, hub: Hub, now: float, *, route: str) -> None:
        super().__init__(viewer, limits, hub, now)
        self._began = now
        self._owed = 0
        """When what its socket has not taken all of was committed, as in Delivery; 0: there is nothing to count."""
        self._paused = False
        self._route = route

    def take_over(self, handover: Handover) -> None:
        """Begins to speak. Raises Gone."""
        self._transport = handover.take(self)
        # every write is tried at once, and what does not fit is heard of at once
        self._transport.set_write_buffer_limits(high=0)
        self._transport.write(GREETING)
        self._fd = self._transport.get_extra_info("socket").fileno()
        self.begin()

    @property
    def stuck(self) -> bool:
        return self._paused

    def turn(self, now: float) -> None:
        if self._paused or self.closed:
            return
        viewer = self.viewer
        audience = viewer.topic.audience
        audience.wake(viewer)
        chunk = self.utterance(now)
        if chunk is not None:
            self._transport.write(chunk)
        if viewer.over:
            self.closed = True
            self._transport.close()  # after what is still to be written
        elif self._paused:
            pass  # until there is room
        elif chunk is not None and viewer.has_more:
            self.wake()
        elif not viewer.has_more:
            audience.rest(self, self._fd, now)

    def _wake_up(self) -> None:
        self.viewer.topic.audience.wake(self.viewer)

    def carry_on(self, rest: bytes, committed: int) -> None:
        """The kernel did not take all of what was written past the transport: its reader has it when it did."""
        self._transport.write(rest)
        self._hub.metrics.bytes += len(rest)
        if self._paused:
            self._owed = committed
        else:
            self._hub.metrics.delivered(committed)

    def cut(self) -> None:
        self._wake_up()
        self._transport.abort()

    def pause_writing(self) -> None:
        self._paused = True
        self._wake_up()

    def resume_writing(self) -> None:
        self._paused = False
        if self._owed:
            self._hub.metrics.delivered(self._owed)
            self._owed = 0
        if not self.closed:
            self.wake()

    def data_received(self, data: bytes) -> None:
        """Nothing more is to be asked on this connection."""

    def eof_received(self) -> None:
        """Somebody who cannot say anything any more is taken to be gone, as by the server before us."""
        self.closed = True
        self._wake_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._hub.leave(self.viewer)  # before anything else: its socket's number will soon be somebody else's
        self.gone(exc)
        seconds = asyncio.get_running_loop().time() - self._began
        tell_request("GET", self._route, 200, seconds)
