"""How messages leave where the server is not ours: by plain ASGI, one at a time."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from litestar.types import Message, Send


class PlainOutlet:
    """As shared.web.sockets.Socket, over any server's `send`."""

    def __init__(self, send: Send) -> None:
        self.on_writable: Callable[[], None] = _nobody_waits
        self.ended = False
        self._send = send
        self._messages: deque[Message] = deque()
        self._task: asyncio.Task[None] | None = None

    @property
    def takes_more(self) -> bool:
        return self._task is None and not self.ended

    def write(self, text: bytes) -> None:
        if not self.ended:
            self._say({"type": "websocket.send", "bytes": None, "text": text.decode()})

    def hang_up(self, code: int, reason: str) -> None:
        if not self.ended:
            self.ended = True
            self._say({"type": "websocket.close", "code": code, "reason": reason})

    def cut(self) -> None:
        """Plain ASGI has no word for it."""
        self.hang_up(1011, "")

    def _say(self, message: Message) -> None:
        self._messages.append(message)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._talk())

    async def _talk(self) -> None:
        # whatever the server raises: that the client has gone shows in `receive`
        with suppress(Exception):
            while self._messages:
                await self._send(self._messages.popleft())
        self._task = None
        self.on_writable()


def _nobody_waits() -> None:
    pass
