"""The hub: who watches what in this process. Viewers come, stay while there is room, and are sent away."""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar
from uuid import UUID

import structlog

from services.stream.buffer import Buffer
from services.stream.census import TOO_MANY, Census, Place, Tally
from services.stream.delivery import Encoder, Position
from services.stream.feed import encode_feed
from services.stream.feed_keeper import FeedKeeper
from services.stream.frames import encode_story, error_event
from services.stream.history import History
from services.stream.keeper import Keeper
from services.stream.limits import Addresses, room_for, strangers_among
from services.stream.metrics import Metrics
from services.stream.pump import Pump
from services.stream.resume import starting_point
from services.stream.topics import Topics
from services.stream.viewer import Viewer
from services.stream.wheel import Wheel
from shared.errors import TooManyRequests, Unavailable
from shared.event_ids import Filters
from shared.events import ErrorCode, sse_retry
from shared.settings import Settings

_RETRY = (2000, 8000)
"""Milliseconds between which those who were sent away come back: spread, not all at once."""

_PACE, _PAUSE = 100, 0.05
"""Viewers dismissed at a time when draining, and seconds before the next: their successors open topics of their own."""

_TICK = 0.5
"""Seconds, at most, by which a heartbeat or the end of a life may be late."""

log = structlog.get_logger(__name__)


_NO_FILTERS = Filters()
"""A feed has none."""


class Guest(Protocol):
    """Whose viewers are many. `place` is where it is counted, None at first."""

    place: Place | Tally | None

    def dismiss(self, why: ErrorCode, farewell: bytes) -> None:
        """It is to end; its viewers are told so, too. `farewell`: as Server-Sent Events."""


_One = TypeVar("_One", Viewer, Guest)


class Hub:
    """`jitter` gives numbers from 0 to 1."""

    def __init__(
        self,
        settings: Settings,
        history: History,
        *,
        jitter: Callable[[], float] = random.random,
        metrics: Metrics | None = None,
    ) -> None:
        self.history = history
        self.metrics = metrics or Metrics()
        self.most = room_for(settings.viewers)
        """Viewers that this process takes."""
        self.addresses = Addresses(settings)
        self.draining = False
        self.heartbeat = settings.heartbeat
        self.buffer = Buffer(settings.buffer)
        self.pump = Pump(self.metrics)
        self.topics = Topics(settings, history, self.buffer, self.pump, self.metrics, jitter=jitter)
        self.wheel = Wheel(min(_TICK, settings.heartbeat / 4), self.metrics)
        self._leave_until = 0.0
        self._nobody = asyncio.Event()
        self._census = Census(settings)
        self._jitter = jitter
        self._filters: dict[Filters, Filters] = {}
        self._guests: set[Guest] = set()
        self._watching = 0
        """Viewers, who stand in the audiences of their topics."""
        self._arriving = 0
        """Those who have a place in this process, but are no viewers yet."""
        self._strangers = 0
        """Those among them who have not said yet who they are."""
        self._came_from: dict[Viewer | Guest, str] = {}

    def start(self) -> None:
        self.topics.start()
        self._census.start()
        self.wheel.start()

    async def stop(self) -> None:
        """Those who were dismissed and still read may do so until the time that `drain` gave them is over."""
        loop = asyncio.get_running_loop()
        if self.present and self._leave_until > loop.time():
            self._nobody.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._leave_until):
                    await self._nobody.wait()
        for one in self.wheel:
            one.cut()
        self.wheel.stop()
        await self.topics.stop()
        await self._census.stop()

    @property
    def present(self) -> int:
        """Viewers, and guests."""
        return self._watching + len(self._guests)

    @property
    def standing(self) -> dict[str, Callable[[], float]]:
        """What the metrics say of the moment."""
        return {
            "viewers": lambda: self.present,
            "viewers_limit": lambda: self.most,
            "topics": lambda: len(self.topics.keepers),
            "buffered_bytes": lambda: self.buffer.held,
            "redis_up": lambda: self.topics.source.connected,
        }

    async def admit(self, guest: Guest, owner: str, came_from: str = "") -> None:
        """A connection that watches whatever it likes, to be given back by `depart`. It counts as a viewer, and so does
        each that joins for it: of its owner's, of its address's and of this process's.

        Raises TooManyRequests, and Unavailable when draining.
        """
        with self._arrival(came_from):
            place = guest.place = await self._count(owner)
            self._guests.add(guest)
            if came_from:
                self._came_from[guest] = came_from
        if not place.counted:
            place.on_settled = lambda: self._settle(guest)
        self._receive(guest, place, self.depart)

    @contextmanager
    def stranger(self, came_from: str) -> Iterator[None]:
        """A place for a connection that has yet to say whose it is. Raises as `admit`."""
        if self._strangers >= strangers_among(self.most):
            self.metrics.refusals["unauthenticated"] += 1
            raise TooManyRequests("Too many connections have not said yet who they are.")
        with self._arrival(came_from):
            self._strangers += 1
            try:
                yield
            finally:
                self._strangers -= 1
        self.addresses.leave(came_from)

    def depart(self, guest: Guest) -> None:
        self._guests.discard(guest)
        if not self.present:
            self._nobody.set()
        self.addresses.leave(self._came_from.pop(guest, ""))
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
        came_from: str = "",
    ) -> Viewer:
        """A new viewer, to be given back by `leave`. `last_id`: the event id that it has, or empty. `guest`: for whom.
        `came_from`: its address, of which there may be too many; a guest's is known.

        Raises NotFound, TooManyRequests, and Unavailable when draining or when PostgreSQL does not answer.
        """
        came_from = came_from or self._address(guest)
        with self._arrival(came_from):
            place = await self._count(owner)
            try:
                keeper = await self.topics.open_batch(batch_id, owner)
            except BaseException:
                self._census.leave(place)
                raise
            # the same for all who chose the same, which is faster to compare
            filters = self._filters.setdefault(filters, filters)
            viewer = Viewer(keeper.topic, filters, encode)
            self._enter(viewer, place, came_from)
        try:
            start = await starting_point(keeper, filters, last_id)
        except BaseException as error:
            self.metrics.refusals["overloaded"] += isinstance(error, Unavailable)
            self.leave(viewer)
            raise
        if last_id and not (isinstance(start, Position) and start.version):
            self.metrics.resumes["snapshot"] += 1
        viewer.begin(start)
        self._receive(viewer, place, self.leave)
        return viewer

    async def join_feed(
        self, owner: str, encode: Encoder = encode_feed, *, guest: Guest | None = None, came_from: str = ""
    ) -> Viewer:
        """A viewer of all that is the owner's; as `join`. Raises TooManyRequests and Unavailable."""
        came_from = came_from or self._address(guest)
        with self._arrival(came_from):
            place = await self._count(owner)
            behind = self.topics.is_open(owner)
            try:
                keeper = await self.topics.open_feed(owner)
            except BaseException:
                self._census.leave(place)
                raise
            viewer = Viewer(keeper.topic, _NO_FILTERS, encode)
            self._enter(viewer, place, came_from)
        try:
            if behind and isinstance(keeper, FeedKeeper) and not self.history.away:
                # what its reader was told elsewhere may not have come here yet, and a feed has no ids to tell by
                with suppress(Unavailable):
                    await keeper.refresh()
        except BaseException:
            self.leave(viewer)
            raise
        self._receive(viewer, place, self.leave)
        return viewer

    async def refresh(self, viewer: Viewer) -> None:
        """Whatever is committed by now is known afterwards. Raises NotFound and Unavailable."""
        keeper = self.topics.keepers.get(viewer.topic.id)
        if isinstance(keeper, Keeper):
            await keeper.refresh()

    def leave(self, viewer: Viewer) -> None:
        topic = viewer.topic
        if viewer in topic.viewers:
            self._watching -= 1
            if not self.present:
                self._nobody.set()
        topic.audience.leave(viewer)
        viewer.let_go()
        self.addresses.leave(self._came_from.pop(viewer, ""))
        if viewer.place is not None:
            self._census.leave(viewer.place)
            viewer.place = None
        if not topic.viewers:
            self.topics.left(topic)

    def farewell(self) -> bytes:
        return self.retry() + error_event("draining", "This server is leaving; connect again.", retryable=True)

    def too_many(self) -> bytes:
        return self.retry() + error_event("too_many_connections", TOO_MANY, retryable=True)

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
        present = [
            *self._guests,
            *(viewer for keeper in self.topics.keepers.values() for viewer in keeper.topic.viewers),
        ]
        log.info("draining", viewers=len(present))
        until = loop.time() + linger
        # everybody in the first half of that time, however many: the other is for those who come yet
        pace = max(_PACE, round(2 * len(present) * _PAUSE / linger)) if linger else _PACE
        for number, viewer in enumerate(present, start=1):
            viewer.dismiss("draining", self.farewell())
            if number % pace == 0:
                await asyncio.sleep(_PAUSE)
        await asyncio.sleep(until - loop.time())

    @contextmanager
    def _arrival(self, came_from: str) -> Iterator[None]:
        """A place in this process for whoever becomes a viewer meanwhile. Raises Unavailable and TooManyRequests."""
        refusals = self.metrics.refusals
        if self.draining:
            refusals["draining"] += 1
            raise Unavailable("This process is leaving.")
        if self.present + self._arriving >= self.most:
            refusals["process"] += 1
            raise TooManyRequests("This process has as many viewers as it takes.")
        if not self.addresses.enter(came_from):
            refusals["address"] += 1
            raise TooManyRequests("Too many streams from this address are open.")
        self._arriving += 1
        try:
            yield
        except BaseException as error:
            refusals["overloaded"] += isinstance(error, Unavailable)
            self.addresses.leave(came_from)
            raise
        finally:
            self._arriving -= 1

    async def _count(self, owner: str) -> Place:
        """Raises TooManyRequests."""
        try:
            return await self._census.enter(owner)
        except TooManyRequests:
            self.metrics.refusals["owner"] += 1
            raise

    def _address(self, guest: Guest | None) -> str:
        return "" if guest is None else self._came_from.get(guest, "")

    def _enter(self, viewer: Viewer, place: Place, came_from: str) -> None:
        topic = viewer.topic
        if came_from:
            self._came_from[viewer] = came_from
        viewer.place = place
        place.on_settled = lambda: self._settle(viewer)
        self._settle(viewer)
        self._watching += 1
        topic.audience.enter(viewer)
        self.topics.entered(topic.id)

    def _receive(self, one: _One, place: Place, give_back: Callable[[_One], None]) -> None:
        """It stays, by all that is known now. Raises TooManyRequests."""
        if place.refused:  # Redis said so while we looked elsewhere
            give_back(one)
            self.metrics.refusals["owner"] += 1
            raise TooManyRequests
        if self.draining:  # it may have come too late to be sent away with the others
            one.dismiss("draining", self.farewell())

    def _settle(self, one: Viewer | Guest) -> None:
        """Redis has said whether there is a place for it."""
        place = one.place
        if isinstance(place, Place) and place.counted:
            one.place = place.tally  # all that there is to know of it, and the same for all of its owner's
        elif isinstance(place, Place) and place.refused:
            one.dismiss("too_many_connections", self.too_many())
