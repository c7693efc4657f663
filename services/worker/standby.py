"""The stand-by: while the broker is away, and with it all tickets, it polls PostgreSQL and runs the same drain."""

import time
from threading import Thread

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from services.worker.drain import Drain, Slots
from services.worker.loop import Loop
from shared import queries
from shared.channels import Publisher
from shared.tickets import TicketBroker

_PERIOD = 1.0
"""Seconds between two pings, and between two looks for work while the broker is away."""


class StandBy:
    def __init__(
        self,
        engine: Engine,
        broker: TicketBroker,
        publisher: Publisher,
        drain: Drain,
        slots: Slots,
        queue: str,
        *,
        own_broker: bool,
    ) -> None:
        """`own_broker`: it is another server than the publisher's Redis, which then is asked after for itself."""
        self._engine = engine
        self._broker = broker
        self._publisher = publisher
        self._drain = drain
        self._slots = slots
        self._queue = queue
        self._own_broker = own_broker
        self.tickets_up = False
        self.redis_up = True
        """Taken for granted until it was asked, within a second."""
        self._loops = [Loop("stand-by", self._turn, _PERIOD)]
        if own_broker:  # either may take its time to be away
            self._loops.append(Loop("redis", self._ask_redis, _PERIOD))

    def start(self) -> None:
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """Returns at once; nothing is begun any more."""
        for loop in self._loops:
            loop.stop()

    def join(self, timeout: float) -> bool:
        """Whether it has ended."""
        until = time.monotonic() + timeout
        return all(loop.join(max(0.0, until - time.monotonic())) for loop in self._loops)

    def _turn(self) -> None:
        self.tickets_up = self._broker.there()
        self._drain.tickets_away = not self.tickets_up
        if not self._own_broker:
            self.redis_up = self.tickets_up
            self._publisher.suspended = not self.redis_up
        if not self.tickets_up:
            for _ in range(self._wanted()):
                Thread(target=self._drain, name="standby-drain", daemon=True).start()

    def _ask_redis(self) -> None:
        self.redis_up = self._publisher.ask()

    def _wanted(self) -> int:
        """How many idle threads there is work for."""
        free = self._slots.free
        if not free:
            return 0
        try:
            with self._engine.connect() as connection:
                return int(connection.execute(queries.RUNNABLE, {"queue": self._queue, "jobs": free}).scalar_one())
        except SQLAlchemyError:  # the ledger tells of it; here it is not asked again while the broker is there
            return 0
