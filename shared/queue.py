"""Work tickets. A Dramatiq message only says "queue Q has something to do"; what there is stands in PostgreSQL."""

import time
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.errors import BrokerConnectionError, ConnectionClosed

from shared.amqp_urls import is_amqp
from shared.channels import broker_namespace
from shared.outage import Outage
from shared.redis_clients import make_redis
from shared.tickets import ACTOR, TicketBroker

HEARTBEAT_TIMEOUT = 15_000
"""Milliseconds after which a killed worker's tickets come back; the sweeper does not wait for them."""

_AWAY_FOR = 1.0
"""Seconds for which a server that did not answer is not sent anything: to find that out takes as long."""


class _Consumer(_RedisConsumer):
    """Dramatiq knows a lost connection, but not redis-py's timeouts (Bogdanp/dramatiq#894): a frozen server is one."""

    def __next__(self) -> Any:
        try:
            return super().__next__()  # type: ignore[no-untyped-call]
        except redis.TimeoutError as error:
            raise ConnectionClosed(error) from None

    def ack(self, message: Any) -> None:
        try:
            super().ack(message)  # type: ignore[no-untyped-call]
        except redis.TimeoutError as error:
            raise ConnectionClosed(error) from None

    def requeue(self, messages: Any) -> None:
        try:
            super().requeue(messages)  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            raise ConnectionClosed(error) from None


class RedisTickets(RedisBroker, TicketBroker):
    """The Redis broker, as a carrier of hints."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._sending = Outage("redis", "tickets")
        self._standby = Outage("redis", "stand-by")
        self._away_until = 0.0
        """By the monotonic clock."""

    @property
    def consumer_class(self) -> type[_Consumer]:
        return _Consumer

    def send(self, queue: str, tickets: int) -> bool:
        if time.monotonic() < self._away_until:
            return False
        ticket: dramatiq.Message[None] = dramatiq.Message(queue, ACTOR, (), {}, {})
        try:
            for _ in range(tickets):
                self.enqueue(ticket)
                self._sending.end()
        except (BrokerConnectionError, redis.RedisError, OSError) as error:
            self._away_until = time.monotonic() + _AWAY_FOR
            self._sending.begin(error)
            return False
        return True

    def waiting(self, queue: str) -> int:
        try:
            return int(self.client.llen(f"{self.namespace}:{queue}"))
        except (redis.RedisError, OSError) as error:
            raise ConnectionClosed(error) from None

    def there(self) -> bool:
        try:
            self.client.ping()
        except (redis.RedisError, OSError) as error:
            self._standby.begin(error)
            return False
        self._standby.end()
        self._away_until = 0.0
        return True

    def close(self) -> None:
        self.client.close()


def make_broker(url: str, namespace: str, queues: tuple[str, ...]) -> TicketBroker:
    """Connects to nothing yet. `url`: of Redis or RabbitMQ.

    Without Dramatiq's usual middleware: retries, age and time limits are facts of jobs, kept in PostgreSQL.
    """
    broker: TicketBroker
    if is_amqp(url):
        from shared.rabbitmq import RabbitTickets  # noqa: PLC0415  # only who has one needs its library

        broker = RabbitTickets(url, broker_namespace(namespace))
    else:
        broker = RedisTickets(
            client=make_redis(url),
            middleware=[],
            namespace=broker_namespace(namespace),
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            maintenance_chance=10_000,
        )
    for queue in queues:
        broker.declare_queue(queue)
    return broker


def send_tickets(broker: TicketBroker, queue: str, count: int) -> bool:
    """To be called after the commit. False when the server is away: the workers' stand-by and sweeper make up for it.

    `queue` empty: of a kind that no worker runs, so nobody is told.
    """
    return not queue or broker.send(queue, count)


def waiting_tickets(broker: TicketBroker, queue: str) -> int:
    """Tickets that no worker has fetched yet. Raises dramatiq.errors.BrokerConnectionError."""
    return broker.waiting(queue)
