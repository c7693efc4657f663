"""The source of hints: a supervised Redis subscription, and how often to look into PostgreSQL with and without it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from services.stream.metrics import UNCOUNTED, Metrics
from services.stream.tasks import end
from shared.errors import Unavailable
from shared.outage import Outage
from shared.redis_clients import check_place, make_async_redis
from shared.settings import Settings

_PING = 1.0
"""Seconds between pings: only an answer proves that a subscription is alive."""
_PINGS = 3
"""Without any answer, after which Redis counts as away."""
_AT_ONCE = 64
"""Messages taken between two rounds of the event loop, which may be milliseconds apart: a busy process is not deaf."""
_SILENCE = 3.0
"""Seconds for connecting, and for writing."""
_CONFIRM = 1.0
"""Seconds to wait for one subscription to be confirmed; later it is made up for."""
_RECONNECT = 0.5
"""Seconds between attempts to connect."""

log = structlog.get_logger(__name__)


class Source:
    """`look` is to compare all that is watched with PostgreSQL.

    `look` is called every `version_check` seconds, every `poll` seconds while Redis is away, and at once when Redis
    goes away and when its subscriptions are (again) confirmed: what was published in between is lost.
    """

    def __init__(
        self,
        settings: Settings,
        look: Callable[[], Awaitable[None]],
        metrics: Metrics = UNCOUNTED,
    ) -> None:
        self.connected = False
        self._metrics = metrics
        self._settings = settings
        self._look = look
        # without redis-py's reconnecting without a word: we supervise it ourselves
        self._client = make_async_redis(settings.redis_url, _SILENCE)
        self._channels: dict[bytes, Callable[[bytes], None]] = {}
        self._redis = Outage("redis", "listening")
        self._pubsub: PubSub | None = None
        self._unconfirmed: set[bytes] = set()
        self._waiting: dict[bytes, asyncio.Event] = {}
        self._missed = False
        """Look as soon as every subscription is confirmed."""
        self._due = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._stay_connected()), loop.create_task(self._keep_looking())]

    async def stop(self) -> None:
        await end(*self._tasks)
        await self._client.aclose()

    async def watch(self, name: str, heard: Callable[[bytes], None]) -> None:
        """What is published after this returns is given to `heard`; while Redis is away, one has to look."""
        channel = name.encode()
        self._channels[channel] = heard
        if self._pubsub is None:
            return
        self._unconfirmed.add(channel)
        confirmed = self._waiting.setdefault(channel, asyncio.Event())
        try:
            async with asyncio.timeout(_CONFIRM):
                await self._pubsub.subscribe(channel)
                await confirmed.wait()
        except (RedisError, OSError):  # a TimeoutError is an OSError
            self._missed = True
        finally:
            self._waiting.pop(channel, None)

    def unwatch(self, name: str) -> Coroutine[Any, Any, None]:
        """Nothing more is heard of it from now on; Redis learns of that when the result is awaited."""
        channel = name.encode()
        self._channels.pop(channel, None)
        self._unconfirmed.discard(channel)
        return self._unsubscribe(channel)

    async def _unsubscribe(self, channel: bytes) -> None:
        if self._pubsub is not None and channel not in self._channels:  # nobody has begun to watch it again
            with suppress(RedisError, OSError):
                await self._pubsub.unsubscribe(channel)

    async def _stay_connected(self) -> None:
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001  # whatever it is, it must not end the listening
                if not isinstance(error, RedisError | OSError):
                    log.error("listening to redis failed", error=repr(error))  # noqa: TRY400  # no locals
                self._redis.begin(error)
            self.connected = False
            self._due.set()
            await asyncio.sleep(_RECONNECT)

    async def _listen(self) -> None:
        """Until the connection is lost, which raises."""
        pubsub = self._client.pubsub()
        try:
            await pubsub.ping()
            self._missed = True
            self._unconfirmed = set(self._channels)
            self._pubsub = pubsub
            if self._channels:
                await pubsub.subscribe(*self._channels)
            loop = asyncio.get_running_loop()
            pinged, unanswered, taken = loop.time(), 1, 0
            while True:
                message = await pubsub.get_message(timeout=max(0.0, pinged + _PING - loop.time()))
                if message is not None:
                    unanswered = 0
                    self._take(message)
                if loop.time() - pinged >= _PING:
                    # pings and not seconds are counted: if it was we who stood still, the answers are there to be read
                    if unanswered >= _PINGS:
                        raise TimeoutError
                    check_place(pubsub.connection)  # one that nothing is published to any more answers all the same
                    await pubsub.ping()
                    pinged, unanswered = loop.time(), unanswered + 1
                taken += message is not None
                if taken % _AT_ONCE == 0:
                    await asyncio.sleep(0)  # redis-py does not wait while it has something buffered
        finally:
            self._pubsub = None
            for confirmed in self._waiting.values():
                confirmed.set()  # nobody will confirm now, but everybody looks after the next connection
            await pubsub.aclose()

    def _take(self, message: dict[str, object]) -> None:
        if not self.connected:
            self.connected = True
            self._metrics.subscriptions += 1
            self._redis.end()
        channel = message["channel"]
        if isinstance(channel, bytes) and channel in self._channels:
            data = message["data"]
            if message["type"] == "message" and isinstance(data, bytes):
                try:
                    self._channels[channel](data)
                except Exception:  # what one topic cannot take is no reason to be deaf for all: it will be looked at
                    log.exception("a message could not be taken")
                    self._due.set()
            elif message["type"] == "subscribe":
                self._confirm(channel)
        if self._missed and not self._unconfirmed:
            self._missed = False
            self._due.set()

    def _confirm(self, channel: bytes) -> None:
        if channel not in self._unconfirmed:
            self._missed = True  # redis-py has reconnected
        self._unconfirmed.discard(channel)
        if confirmed := self._waiting.get(channel):
            confirmed.set()

    async def _keep_looking(self) -> None:
        while True:
            period = self._settings.version_check if self.connected else self._settings.poll
            with suppress(TimeoutError):
                async with asyncio.timeout(period):
                    await self._due.wait()
            self._due.clear()
            self._metrics.looks["check" if self.connected else "poll"] += 1
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001  # nothing may end this: it is what heals everything else
                if not isinstance(error, Unavailable):  # of that history has told, once
                    log.warning("cannot look where batches are", error=repr(error))
