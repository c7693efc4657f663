"""Clients for hints, of a Redis URL in any form: short timeouts, no retries.

Where there are several servers, a connection is made to the one that the lookout names at that moment, and made anew
when it names another. Nothing else differs: all that we send to a cluster by these clients (PING, PUBLISH, SUBSCRIBE)
any of its nodes takes, and passes on to all.
"""

import asyncio
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import Connection as AsyncConnection
from redis.asyncio.connection import ConnectionPool as AsyncConnectionPool
from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool, SSLConnection
from redis.retry import Retry

from shared.lookout import Lookout, MovedError, lookout_for, tls_options
from shared.redis_urls import Several, read_redis_url

_PATIENCE = 1.0
"""Seconds for an answer, and to connect."""


def make_redis(url: str) -> redis.Redis:
    """For threads. Connects to nothing yet. Of a cluster it takes commands without a key only."""
    several = read_redis_url(url)
    if several is None:
        return redis.Redis.from_url(
            url, socket_timeout=_PATIENCE, socket_connect_timeout=_PATIENCE, retry=Retry(NoBackoff(), 0)
        )
    options = _options(several, _PATIENCE) | {"retry": Retry(NoBackoff(), 0)}
    kind = _TLSToOneOfSeveral if several.tls else _ToOneOfSeveral
    return redis.Redis.from_pool(ConnectionPool(connection_class=kind, **options))


def make_async_redis(url: str, patience: float) -> redis.asyncio.Redis:
    """For an event loop, else as `make_redis`. `patience`: seconds for an answer, and to connect."""
    several = read_redis_url(url)
    if several is None:
        return redis.asyncio.Redis.from_url(
            url, socket_timeout=patience, socket_connect_timeout=patience, retry=AsyncRetry(NoBackoff(), 0)
        )
    options = _options(several, patience) | {"retry": AsyncRetry(NoBackoff(), 0)}
    kind = _AsyncTLSToOneOfSeveral if several.tls else _AsyncToOneOfSeveral
    return redis.asyncio.Redis.from_pool(AsyncConnectionPool(connection_class=kind, **options))


def make_async_keyed(url: str, patience: float) -> "redis.asyncio.Redis | RedisCluster":
    """As `make_async_redis`, but for commands with keys, each of which a cluster has in one of its nodes."""
    several = read_redis_url(url)
    if several is None or several.by != "cluster":
        return make_async_redis(url, patience)
    return RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in several.nodes],
        username=several.username,
        password=several.password,
        socket_timeout=patience,
        socket_connect_timeout=patience,
        retry=AsyncRetry(NoBackoff(), 1),  # with none it would not even look where a key has gone
        require_full_coverage=False,
        ssl=several.tls,
        **tls_options(several),
    )


def check_place(connection: Any) -> None:
    """Raises MovedError if a connection, which was kept for long, is not to the right server any more."""
    if isinstance(connection, _AsyncToOneOfSeveral) and connection.misplaced:
        raise MovedError("another server has taken over")


def _options(several: Several, patience: float) -> dict[str, Any]:
    return {
        "lookout": lookout_for(several),
        "username": several.username,
        "password": several.password,
        "db": several.database,
        "socket_timeout": patience,
        "socket_connect_timeout": patience,
        **tls_options(several),
    }


class _ToOneOfSeveral(Connection):
    """A connection to where the lookout says."""

    def __init__(self, *, lookout: Lookout, **options: Any) -> None:
        self._lookout = lookout
        super().__init__(**options)  # type: ignore[no-untyped-call]

    def connect(self) -> None:
        """Called for each use of a connection that was made before, too."""
        if self.is_connected and (self.host, self.port) != self._lookout.address:
            self.disconnect()  # type: ignore[no-untyped-call]
        super().connect()  # type: ignore[no-untyped-call]

    def _connect(self) -> Any:
        self.host, self.port = self._lookout.find()
        return super()._connect()  # type: ignore[no-untyped-call]

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().read_response(*arguments, **options)
        except redis.ReadOnlyError:  # it was the master
            self.disconnect()  # type: ignore[no-untyped-call]
            raise MovedError("the master has become a replica") from None


class _TLSToOneOfSeveral(_ToOneOfSeveral, SSLConnection):
    pass


class _AsyncToOneOfSeveral(AsyncConnection):
    def __init__(self, *, lookout: Lookout, **options: Any) -> None:
        self._lookout = lookout
        super().__init__(**options)

    @property
    def misplaced(self) -> bool:
        return self.is_connected and (self.host, self.port) != self._lookout.address

    async def connect(self) -> None:
        if self.misplaced:
            await self.disconnect()
        await super().connect()  # type: ignore[no-untyped-call]

    async def _connect(self) -> None:
        if self._lookout.address is None:
            await asyncio.to_thread(self._lookout.find)
        self.host, self.port = self._lookout.find()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)
        except redis.ReadOnlyError:
            await self.disconnect()
            raise MovedError("the master has become a replica") from None


class _AsyncTLSToOneOfSeveral(_AsyncToOneOfSeveral, AsyncSSLConnection):
    pass
