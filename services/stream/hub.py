"""The hub: the topics of this process, opened with their first viewer and closed a while after the last."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol
from uuid import UUID

import structlog

from services.stream.census import Census, Place
from services.stream.frames import encode_story, error_event
from services.stream.history import History
from services.stream.keeper import PATIENCE, Keeper
from services.stream.pump import Pump
from services.stream.resume import starting_point
from services.stream.source import Source
from services.stream.topic import Encoder, Topic
from services.stream.viewer import Viewer
from services.stream.wheel import Wheel
from shared.errors import NotFound, TooManyRequests, Unavailable
from shared.event_ids import Filters
from shared.events import ErrorCode, sse_retry
from shared.settings import Settings

VIEWERS_MAX = 10_000
"""Connections of one process: each takes a file descriptor, of which a process has twice as many or more."""

LINGER = 10.0
"""Seconds for which a topic outlives its last viewer: a page that is loaded again finds it open."""

_RETRY = (2000, 8000)
"""Milliseconds between which those who were sent away come back: spread, not all at once."""

_PACE = 100
"""Viewers dismissed at a time when draining, twenty times a second: their successors open topics of their own."""

_TICK = 0.5
"""Seconds, at most, by which a heartbeat or the end of a life may be late."""

log = structlog.get_logger(__name__)


class Guest(Protocol):
    """Whose viewers are many. `place` is where it is counted, None at first."""

    place: Place | None

    def dismiss(self, why: ErrorCode, farewell: bytes) -> None:
        """It is to end; its viewers are told so, too. `farewell`: as Server-Sent Events."""


class Hub:
    """`jitter` gives numbers from 0 to 1."""

    def __init__(
        self,
        settings: Settings,
        history: History,
        *,
        jitter: Callable[[], float] = random.random,
        linger: float = LINGER,
    ) -> None:
        self.history = history
        self.source = Source(settings, self._hear, self._look)
        self.draining = False
        self.pump = Pump()
        self.wheel = Wheel(min(_TICK, settings.heartbeat / 4))
        self._leave_until = 0.0
        self._nobody = asyncio.Event()
        self._census = Census(settings)
        self._settings = settings
        self._jitter = jitter
        self._linger = linger
        self._keepers: dict[UUID, Keeper] = {}
        self._openings: dict[UUID, asyncio.Task[None]] = {}
        self._closings: dict[UUID, asyncio.TimerHandle] = {}
        self._viewers: set[Viewer | Guest] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self.source.start()
        self._census.start()
        self.wheel.start()

    async def stop(self) -> None:
        """Those who were dismissed and still read may do so until the time that `drain` gave them is over."""
        loop = asyncio.get_running_loop()
        if self._viewers and self._leave_until > loop.time():
            self._nobody.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._leave_until):
                    await self._nobody.wait()
        for one in self.wheel:
            one.cut()
        self.wheel.stop()
        for closing in self._closings.values():
            closing.cancel()
        for task in (*self._tasks, *self._openings.values()):
            task.cancel()
        for keeper in list(self._keepers.values()):
            await keeper.close()
        await self.source.stop()
        await self._census.stop()

    async def admit(self, guest: Guest, owner: str) -> None:
        """A connection that watches whatever it likes, to be given back by `depart`. It is one viewer of its owner's; in
        this process it counts, and so does each viewer that joins for it.

        Raises TooManyRequests, and Unavailable when draining.
        """
        self._check_room()
        place = guest.place = await self._census.enter(owner)
        self._viewers.add(guest)
        if not place.counted:
            place.on_refused = lambda: guest.dismiss("too_many_connections", self.too_many())
        if place.refused:  # Redis said so while we looked
            self.depart(guest)
            raise TooManyRequests
        if self.draining:
            guest.dismiss("draining", self.farewell())

    def depart(self, guest: Guest) -> None:
        self._viewers.discard(guest)
        if guest.place is not None:
            self._census.leave(guest.place)

    async def join(
        self,
        batch_id: UUID,
        owner: str,
        filters: Filters,
        last_id: str,
        encode: Encoder = encode_story,
        *,
        guest: Guest | None = None,
    ) -> Viewer:
        """A new viewer, to be given back by `leave`. `last_id`: the event id that it has, or empty. `guest`: for whom.

        Raises NotFound, TooManyRequests, and Unavailable when draining or when PostgreSQL does not answer.
        """
        self._check_room()
        place = await self._census.enter(owner) if guest is None else None
        try:
            keeper = await self._open(batch_id, owner)
        except BaseException:
            if place is not None:
                self._census.leave(place)
            raise
        viewer = Viewer(keeper.topic, filters, encode)
        self._enter(viewer, place)
        try:
            viewer.begin(await starting_point(keeper, self.history, filters, last_id))
        except BaseException:
            self.leave(viewer)
            raise
        if place is not None and place.refused:  # Redis said so while we read
            self.leave(viewer)
            raise TooManyRequests
        if self.draining:  # it may have come too late to be sent away with the others
            viewer.dismiss("draining", self.farewell())
        return viewer

    async def refresh(self, viewer: Viewer) -> None:
        """Whatever is committed by now is known afterwards. Raises NotFound and Unavailable."""
        if keeper := self._keepers.get(viewer.topic.id):
            await keeper.refresh()

    def leave(self, viewer: Viewer) -> None:
        topic = viewer.topic
        self._viewers.discard(viewer)
        if not self._viewers:
            self._nobody.set()
        topic.viewers.discard(viewer)
        if viewer.place is not None:
            self._census.leave(viewer.place)
        keeper = self._keepers.get(topic.id)
        if not topic.viewers and keeper is not None and keeper.topic is topic:
            self._close_later(topic.id)

    def farewell(self) -> bytes:
        return self.retry() + error_event("draining", "This server is leaving; connect again.", retryable=True)

    def too_many(self) -> bytes:
        return self.retry() + error_event("too_many_connections", TooManyRequests.title, retryable=True)

    def retry(self) -> bytes:
        """When those who are sent away shall come back."""
        least, most = _RETRY
        return sse_retry(round(least + self._jitter() * (most - least)))

    async def drain(self, linger: float = 0, grace: float = 0) -> None:
        """Send everybody away, in pace, and go on answering for `linger` seconds: traffic takes a while to move.

        Who is still being written to then has until `grace` seconds from now.
        """
        loop = asyncio.get_running_loop()
        self.draining = True
        self._leave_until = loop.time() + grace
        log.info("draining", viewers=len(self._viewers))
        until = loop.time() + linger
        for number, viewer in enumerate(tuple(self._viewers), start=1):
            viewer.dismiss("draining", self.farewell())
            if number % _PACE == 0:
                await asyncio.sleep(0.05)
        await asyncio.sleep(until - loop.time())

    def _check_room(self) -> None:
        """Raises Unavailable and TooManyRequests."""
        if self.draining:
            raise Unavailable("This process is leaving.")
        if len(self._viewers) >= VIEWERS_MAX:
            raise TooManyRequests

    async def _open(self, batch_id: UUID, owner: str) -> Keeper:
        if batch_id not in self._keepers and not await self.history.owned(batch_id, owner):
            raise NotFound
        keeper = self._keepers.get(batch_id)
        if keeper is None:
            keeper = self._keepers[batch_id] = self._make(batch_id)
            self._openings[batch_id] = asyncio.get_running_loop().create_task(self._first(keeper))
            self._openings[batch_id].add_done_callback(_note_failure)
        if batch_id in self._openings:
            try:
                async with asyncio.timeout(PATIENCE):
                    await asyncio.shield(self._openings[batch_id])
            except TimeoutError:
                raise Unavailable("This takes too long at the moment.") from None
        if keeper.topic.batch.owner != owner:
            raise NotFound
        return keeper

    def _make(self, batch_id: UUID) -> Keeper:
        logs_url = f"{self._settings.public_url.rstrip('/')}/api/batches/{batch_id}/logs"
        topic = Topic(batch_id, logs_url)
        return Keeper(topic, self.history, window=self._settings.window, jitter=self._jitter, vanished=self._forget)

    async def _first(self, keeper: Keeper) -> None:
        """Subscribe, and only then read: no change can fall between the two."""
        batch_id = keeper.topic.id
        try:
            await self.source.watch(batch_id)
            await keeper.open()
        except BaseException:
            self._forget(batch_id)
            raise
        finally:
            self._openings.pop(batch_id, None)
        self._close_later(batch_id)  # unless somebody is still there to enter

    def _enter(self, viewer: Viewer, place: Place | None) -> None:
        topic = viewer.topic
        viewer.place = place
        if place is not None and not place.counted:
            place.on_refused = lambda: viewer.dismiss("too_many_connections", self.too_many())
        self._viewers.add(viewer)
        topic.viewers.add(viewer)
        if closing := self._closings.pop(topic.id, None):
            closing.cancel()

    def _close_later(self, batch_id: UUID) -> None:
        if closing := self._closings.pop(batch_id, None):
            closing.cancel()
        self._closings[batch_id] = asyncio.get_running_loop().call_later(self._linger, self._close, batch_id)

    def _close(self, batch_id: UUID) -> None:
        if keeper := self._keepers.get(batch_id):
            self._spawn(keeper.close())
        self._forget(batch_id)

    def _forget(self, batch_id: UUID) -> None:
        if self._keepers.pop(batch_id, None) is not None:
            self._spawn(self.source.unwatch(batch_id))
        if closing := self._closings.pop(batch_id, None):
            closing.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _hear(self, batch_id: UUID, message: bytes) -> None:
        if keeper := self._keepers.get(batch_id):
            keeper.hear(message)

    async def _look(self) -> None:
        """Compare every topic with PostgreSQL, in one query."""
        versions = {batch_id: keeper.topic.version for batch_id, keeper in self._keepers.items()}
        if not versions:
            return
        stands = await self.history.stands(versions)
        for batch_id, version in versions.items():
            if keeper := self._keepers.get(batch_id):
                keeper.compare(stands.get(batch_id), version)


def _note_failure(task: asyncio.Task[None]) -> None:
    """Whoever waited has been told; perhaps nobody did."""
    if not task.cancelled():
        task.exception()
