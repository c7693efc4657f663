"""Requests take turns: when thousands come at once, a few begin in each round of the event loop.

Without that all of them would begin in one round, which then lasts for seconds: nothing else is read, written or
answered meanwhile, and whoever waits for us takes us for dead.
"""

import asyncio
from collections import deque
from typing import Any

_AT_ONCE = 16
"""Requests that begin in one round: some milliseconds' work."""


_PROBES = "/health/"
"""Who asks whether we live is answered at once."""


class Turns:
    """An ASGI application around another, in one event loop."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._left = _AT_ONCE
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._renewing = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan" and not scope["path"].startswith(_PROBES):
            await self._turn()
        await self._app(scope, receive, send)

    async def _turn(self) -> None:
        """Returns at once, unless many came before in this round."""
        if not self._renewing:
            self._renewing = True
            asyncio.get_running_loop().call_soon(self._renew)
        if self._left:
            self._left -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _renew(self) -> None:
        self._left = _AT_ONCE
        while self._left and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # or its client has left
                turn.set_result(None)
                self._left -= 1
        self._renewing = self._left < _AT_ONCE
        if self._renewing:
            asyncio.get_running_loop().call_soon(self._renew)
