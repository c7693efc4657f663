"""The lookout: what is expected of the watched batches, found out again and again, and told where it has changed.

Between two versions of a batch its own row says nothing new; but workers come and go, and queues move on.
"""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from uuid import UUID

import structlog
from msgspec import Struct

from services.stream.history import History
from services.stream.keeper import Keeper
from services.stream.tasks import end
from shared.errors import Unavailable
from shared.outlook import Outlook, differs, shown
from shared.outlooks import BATCHES, Found

PERIOD = 2.0
"""Seconds from one look to the next: workers say as often that they are there."""

_AT_ONCE = 20
"""Topics between two rounds of the event loop."""

log = structlog.get_logger(__name__)


class _Told(Struct):
    """To those who watch one batch."""

    version: int
    outlook: Outlook
    at: float
    """By the clock of the event loop."""


class Lookout:
    """`keepers` gives those of all open topics."""

    def __init__(self, history: History, keepers: Callable[[], Collection[Keeper]]) -> None:
        self._history = history
        self._keepers = keepers
        self._told: dict[UUID, _Told] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.get_running_loop().create_task(self._look_again_and_again())]

    async def stop(self) -> None:
        await end(*self._tasks)

    async def look(self) -> None:
        """Raises Unavailable."""
        watched = {one.topic.id: one for one in self._keepers() if one.topic.version and not one.topic.final}
        self._told = {batch_id: told for batch_id, told in self._told.items() if batch_id in watched}
        rest = iter(watched)
        while some := list(islice(rest, BATCHES)):
            found = await self._history.outlooks(some)
            for number, (batch_id, one) in enumerate(found.items(), start=1):
                self._take(watched[batch_id], one)
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)

    def _take(self, keeper: Keeper, found: Found) -> None:
        topic = keeper.topic
        if not topic.version or topic.final:  # by now
            return
        now = asyncio.get_running_loop().time()
        told = self._told.get(topic.id)
        if told is None or told.version != topic.version:  # what has changed since was told with it
            told = self._told[topic.id] = _Told(topic.version, shown(topic.batch), now)
        topic.expect(found)
        outlook = shown(topic.batch)
        if differs(told.outlook, outlook, now - told.at, datetime.now(UTC)):
            self._told[topic.id] = _Told(topic.version, outlook, now)
            keeper.tell_outlook()

    async def _look_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            try:
                with suppress(Unavailable):  # of that history has told, once
                    await self.look()
            except Exception as error:  # noqa: BLE001  # nothing may end this
                log.warning("cannot find out what is expected", error=repr(error))
