"""An inquiry: PostgreSQL is asked what is new, one question at a time, until it answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

from shared.errors import Unavailable

_AGAIN_FIRST, _AGAIN_MOST = 0.1, 2.0
"""Seconds before PostgreSQL is asked again after it did not answer; doubled each time."""

PATIENCE = 5.0
"""Seconds that a new reader waits for PostgreSQL before it is told to come back."""

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")


class Inquiry(Generic[Answer]):
    """`read` asks; `take` is given each answer. `jitter` (0 to 1) spreads the repeated questions of many."""

    def __init__(
        self, read: Callable[[], Awaitable[Answer]], take: Callable[[Answer], None], jitter: Callable[[], float]
    ) -> None:
        self._read = read
        self._take = take
        self._jitter = jitter
        self._asking: asyncio.Task[None] | None = None
        self._again = False
        self._opened = False
        self._closed = False
        self._waiting: list[asyncio.Future[None]] = []

    async def open(self) -> None:
        """The first question; what came up before or meanwhile is asked after it. Raises what `read` and `take` do."""
        self._take(await self._read())
        self._opened = True
        if self._again:
            self.ask()

    async def refresh(self) -> None:
        """Whatever is committed by now has been taken afterwards. Raises Unavailable."""
        if self._closed:
            return
        answered = asyncio.get_running_loop().create_future()
        self._waiting.append(answered)
        self.ask()
        try:
            async with asyncio.timeout(PATIENCE):
                await answered
        except TimeoutError:
            raise Unavailable from None

    def ask(self) -> None:
        """One question at a time, and another one if it came up during the first."""
        if self._closed:
            return
        self._again = True
        if self._opened and self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())

    def end(self) -> None:
        """There is nothing more to ask; whoever waits has been answered."""
        self._closed = True
        waiting, self._waiting = self._waiting, []
        _answer(waiting)

    async def close(self) -> None:
        self.end()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _ask(self) -> None:
        try:
            wait = _AGAIN_FIRST
            while self._again and not self._closed:
                self._again = False
                waiting, self._waiting = self._waiting, []
                try:
                    answer = await self._read()
                except Exception as error:  # noqa: BLE001  # whoever no longer asks would be stuck for ever
                    if not isinstance(error, Unavailable):  # of that history has told, once
                        log.warning("cannot ask what is new", error=repr(error))
                    self._again = True
                    self._waiting += waiting
                    await asyncio.sleep(wait * (0.5 + self._jitter()))
                    wait = min(2 * wait, _AGAIN_MOST)
                else:
                    wait = _AGAIN_FIRST
                    self._take(answer)
                    _answer(waiting)
        finally:
            self._asking = None


def _answer(waiting: list[asyncio.Future[None]]) -> None:
    for answered in waiting:
        if not answered.done():
            answered.set_result(None)
