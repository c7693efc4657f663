"""The topics of this process, batches' and feeds: opened with their first viewer, closed a while after the last."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID

from services.stream.buffer import Buffer
from services.stream.feed import Feed
from services.stream.feed_keeper import FeedKeeper
from services.stream.history import History
from services.stream.inquiry import PATIENCE
from services.stream.keeper import Keeper
from services.stream.lookout import Lookout
from services.stream.metrics import Metrics
from services.stream.pump import Pump
from services.stream.round import Round
from services.stream.source import Source
from services.stream.topic import Topic
from shared.channels import batch_channel, owner_channel
from shared.errors import NotFound, Unavailable
from shared.settings import Settings

LINGER = 10.0
"""Seconds for which a topic outlives its last viewer: a page that is loaded again finds it open."""

Key = UUID | str
"""Of a batch's topic its id; of a feed its owner."""

_T = TypeVar("_T")


class Topics:
    """`jitter` gives numbers from 0 to 1. What is new in a topic is told in turns of `pump`."""

    def __init__(
        self,
        settings: Settings,
        history: History,
        buffer: Buffer,
        pump: Pump,
        metrics: Metrics,
        *,
        jitter: Callable[[], float],
    ) -> None:
        self.source = Source(settings, self._look, metrics)
        self.keepers: dict[Key, Keeper | FeedKeeper] = {}
        """Of those that are open, and of those that are being opened."""
        self.linger = LINGER
        self._settings = settings
        self._history = history
        self._buffer = buffer
        self._pump = pump
        self._metrics = metrics
        self._jitter = jitter
        self._owners: dict[UUID, asyncio.Task[str | None]] = {}
        self._openings: dict[Key, asyncio.Task[None]] = {}
        self._closings: dict[Key, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lookout = Lookout(history, lambda: [one for one in self.keepers.values() if isinstance(one, Keeper)])

    def start(self) -> None:
        self.source.start()
        self._lookout.start()

    def prepare(self) -> None:
        """Connect to PostgreSQL before anybody waits for it: the first time takes as long as many later ones."""

        async def connect() -> None:
            with suppress(Unavailable):
                await self._history.check()

        self._spawn(connect())

    async def stop(self) -> None:
        for closing in self._closings.values():
            closing.cancel()
        for task in (*self._tasks, *self._openings.values(), *self._owners.values()):
            task.cancel()
        for keeper in list(self.keepers.values()):
            await keeper.close()
        await self._lookout.stop()
        await self.source.stop()

    async def open_batch(self, batch_id: UUID, owner: str) -> Keeper:
        """The one that there is, or a new one, read for the first time. Raises NotFound and Unavailable."""
        if batch_id not in self.keepers and await self._owner(batch_id) != owner:
            raise NotFound
        keeper = await self._open(batch_id)
        if not isinstance(keeper, Keeper) or keeper.topic.batch.owner != owner:
            raise NotFound
        return keeper

    async def open_feed(self, owner: str) -> Keeper | FeedKeeper:
        """Likewise. Raises Unavailable."""
        return await self._open(owner)

    def is_open(self, key: Key) -> bool:
        """And has been read."""
        return key in self.keepers and key not in self._openings

    def entered(self, key: Key) -> None:
        """Somebody watches it: it stays open."""
        if closing := self._closings.pop(key, None):
            closing.cancel()

    def left(self, topic: Topic | Feed) -> None:
        """By its last viewer."""
        keeper = self.keepers.get(topic.id)
        if keeper is not None and keeper.topic is topic:
            self._close_later(topic.id)

    async def _open(self, key: Key) -> Keeper | FeedKeeper:
        keeper = self.keepers.get(key)
        if keeper is None:
            keeper = self.keepers[key] = self._make_feed(key) if isinstance(key, str) else self._make(key)
            self._openings[key] = asyncio.get_running_loop().create_task(self._first(key, keeper))
            self._openings[key].add_done_callback(_note_failure)
        if opening := self._openings.get(key):
            await _with_others(opening)
        return keeper

    async def _owner(self, batch_id: UUID) -> str | None:
        """Asked once for all who come at the same time, before anything is opened for them. None: there is none."""
        question = self._owners.get(batch_id)
        if question is None:
            question = self._owners[batch_id] = asyncio.get_running_loop().create_task(self._history.owner(batch_id))
            question.add_done_callback(_note_failure)
            question.add_done_callback(lambda _: self._owners.pop(batch_id))
        return await _with_others(question)

    def _make(self, batch_id: UUID) -> Keeper:
        logs_url = f"{self._settings.public_url.rstrip('/')}/api/batches/{batch_id}/logs"
        topic = Topic(batch_id, logs_url, self._buffer)
        topic.audience.metrics = self._metrics
        return Keeper(
            topic,
            self._history,
            window=self._settings.window,
            tell=Round(topic, self._pump).begin,
            jitter=self._jitter,
            vanished=self._forget,
        )

    def _make_feed(self, owner: str) -> FeedKeeper:
        feed = Feed(owner, self._buffer)
        feed.audience.metrics = self._metrics
        tell = Round(feed, self._pump).begin
        return FeedKeeper(feed, self._history, window=self._settings.window, tell=tell, jitter=self._jitter)

    async def _first(self, key: Key, keeper: Keeper | FeedKeeper) -> None:
        """Subscribe, and only then read: no change can fall between the two."""
        try:
            await self.source.watch(self._channel(key), keeper.hear)
            await keeper.open()
        except BaseException:
            self._forget(key)
            raise
        finally:
            self._openings.pop(key, None)
        self._close_later(key)  # unless somebody is still there to enter

    def _channel(self, key: Key) -> str:
        namespace = self._settings.namespace
        return owner_channel(namespace, key) if isinstance(key, str) else batch_channel(namespace, key)

    def _close_later(self, key: Key) -> None:
        if closing := self._closings.pop(key, None):
            closing.cancel()
        self._closings[key] = asyncio.get_running_loop().call_later(self.linger, self._close, key)

    def _close(self, key: Key) -> None:
        if keeper := self.keepers.get(key):
            self._spawn(keeper.close())
        self._forget(key)

    def _forget(self, key: Key) -> None:
        if self.keepers.pop(key, None) is not None:
            self._spawn(self.source.unwatch(self._channel(key)))
        if closing := self._closings.pop(key, None):
            closing.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self) -> None:
        """Compare every topic with PostgreSQL in one query, and every feed in another."""
        versions = {key: one.topic.version for key, one in self.keepers.items() if isinstance(key, UUID)}
        if versions:
            stands = await self._history.stands(versions)
            for batch_id, version in versions.items():
                keeper = self.keepers.get(batch_id)
                if isinstance(keeper, Keeper):
                    keeper.compare(stands.get(batch_id), version)
        feeds = {one.topic.id: one.topic for one in self.keepers.values() if isinstance(one, FeedKeeper)}
        if feeds:
            asked_at = {owner: feed.version for owner, feed in feeds.items()}
            older = [batch_id for feed in feeds.values() for batch_id in feed.older]
            epoch, found = await self._history.feed_versions(feeds, older)
            for owner, seen in found.items():
                one = self.keepers.get(owner)
                if isinstance(one, FeedKeeper) and one.topic is feeds[owner]:
                    one.compare(epoch, seen, asked_at[owner])
                await asyncio.sleep(0)  # of others there may be many, too


async def _with_others(task: asyncio.Task[_T]) -> _T:
    """What it comes to, for one of those who wait for it. Raises Unavailable."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.shield(task)
    except TimeoutError:
        raise Unavailable("This takes too long at the moment.") from None


def _note_failure(task: "asyncio.Task[Any]") -> None:
    """Whoever waited has been told; perhaps nobody did."""
    if not task.cancelled():
        task.exception()
