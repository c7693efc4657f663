"""What stands in PostgreSQL about all queues, for /metrics, and whether Redis is there: asked after when somebody
scrapes, and not more than every few seconds, however many do.
"""

import time
from collections.abc import Mapping
from threading import Lock

import redis
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from shared import queries
from shared.outage import Outage

PERIOD = 5.0
"""Seconds for which an answer is good."""

Found = Mapping[tuple[str, str], float]
"""Numbers, by fact and name: see FACTS."""


class Facts:
    def __init__(self, engine: sa.Engine, client: "redis.Redis", lease: float) -> None:
        """`engine`: of its own, so that no request waits; with a `patience`."""
        self._engine = engine
        self._client = client
        self._lease = lease
        self._asking = Lock()
        self._found: Found | None = None
        self._next = 0.0
        self._postgresql = Outage("postgresql", "metrics")
        self.redis_up = True
        """At the last look."""

    def now(self) -> Found | None:
        """None: PostgreSQL does not answer. Whoever comes while another one asks gets what was found before."""
        if time.monotonic() >= self._next and self._asking.acquire(blocking=False):
            try:
                self._found = self._ask()
                self.redis_up = self._ping()
            finally:
                self._next = time.monotonic() + PERIOD
                self._asking.release()
        return self._found

    def _ask(self) -> Found | None:
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(queries.FACTS, {"lease": self._lease}).all()
        except SQLAlchemyError as error:
            self._postgresql.begin(error)
            return None
        self._postgresql.end()
        return {(row.fact, row.name): row.value for row in rows}

    def _ping(self) -> bool:
        try:
            self._client.ping()
        except (redis.RedisError, OSError):
            return False
        return True
