"""The stand-by: while Redis is away, and with it all tickets, it polls PostgreSQL and runs the same drain."""

from threading import Thread

import redis
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from services.worker.drain import Drain, Slots
from services.worker.loop import Loop
from shared import queries
from shared.channels import Publisher
from shared.outage import Outage

_PERIOD = 1.0
"""Seconds between two pings, and between two looks for work while Redis is away."""


class StandBy:
    def __init__(
        self,
        engine: Engine,
        client: "redis.Redis",
        publisher: Publisher,
        drain: Drain,
        slots: Slots,
        queue: str,
    ) -> None:
        self._engine = engine
        self._client = client
        self._publisher = publisher
        self._drain = drain
        self._slots = slots
        self._queue = queue
        self._redis = Outage("redis", "stand-by")
        self._loop = Loop("stand-by", self._turn, _PERIOD)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        """Returns at once; nothing is begun any more."""
        self._loop.stop()

    def _turn(self) -> None:
        self._ask()
        self._drain.redis_away = self._publisher.suspended = self._redis.away
        if self._redis.away:
            for _ in range(self._wanted()):
                Thread(target=self._drain, name="standby-drain", daemon=True).start()

    def _ask(self) -> None:
        try:
            self._client.ping()
            self._redis.end()
        except (redis.RedisError, OSError) as error:
            self._redis.begin(error)

    def _wanted(self) -> int:
        """How many idle threads there is work for."""
        free = self._slots.free
        if not free:
            return 0
        try:
            with self._engine.connect() as connection:
                return int(connection.execute(queries.RUNNABLE, {"queue": self._queue, "jobs": free}).scalar_one())
        except SQLAlchemyError:  # the ledger tells of it; here it is not asked again while Redis is there
            return 0
