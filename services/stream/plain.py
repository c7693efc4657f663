"""A viewer over plain ASGI: one task, for servers that do not hand sockets over."""

import asyncio

from litestar.types import Receive, Send

from services.stream.carrier import GREETING, Carrier, Limits
from services.stream.hub import Hub
from services.stream.viewer import Viewer
from shared.web.departure import departed


class Plain(Carrier):
    __slots__ = ("_awake", "_sending", "_task")

    def __init__(self, viewer: Viewer, limits: Limits, hub: Hub, now: float) -> None:
        super().__init__(viewer, limits, hub, now)
        self._awake = asyncio.Event()
        self._sending = False

    @property
    def stuck(self) -> bool:
        return self._sending

    async def speak(self, receive: Receive, send: Send) -> None:
        """Until it is over, or its reader gone."""
        loop = asyncio.get_running_loop()
        # a closed connection shows here, not as an error of `send`
        gone = loop.create_task(departed(receive))
        gone.add_done_callback(lambda _: self._awake.set())
        self.begin()
        try:
            await send({"type": "http.response.body", "body": GREETING, "more_body": True})
            while not gone.done():
                self._awake.clear()
                chunk = self.utterance(loop.time())
                if chunk is not None:
                    self._sending = True
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    self._sending = False
                if self.viewer.over:
                    return
                if chunk is None or not self.viewer.has_more:
                    await self._awake.wait()
        finally:
            self.gone()
            gone.cancel()

    def turn(self, now: float) -> None:  # noqa: ARG002  # it has a clock of its own when it comes to speak
        self._awake.set()

    def cut(self) -> None:
        """Plain ASGI has no word for it: the kernel gives up on a connection that does not move."""
