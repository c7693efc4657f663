"""Work tickets. A Dramatiq message only says "queue Q has something to do"; what there is stands in PostgreSQL."""

from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.errors import BrokerConnectionError, ConnectionClosed

from shared.channels import broker_namespace, make_redis
from shared.outage import Outage

ACTOR = "drain"

HEARTBEAT_TIMEOUT = 15_000
"""Milliseconds after which a killed worker's tickets come back; the sweeper does not wait for them."""


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


class TicketBroker(RedisBroker):
    """The Redis broker, as a carrier of hints."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self.redis = Outage("redis", "tickets")

    @property
    def consumer_class(self) -> type[_Consumer]:
        return _Consumer


def make_broker(redis_url: str, namespace: str, queues: tuple[str, ...]) -> TicketBroker:
    """Without Dramatiq's usual middleware: retries, age and time limits are facts of jobs, kept in PostgreSQL."""
    broker = TicketBroker(
        client=make_redis(redis_url),
        middleware=[],
        namespace=broker_namespace(namespace),
        heartbeat_timeout=HEARTBEAT_TIMEOUT,
        maintenance_chance=10_000,
    )
    for queue in queues:
        broker.declare_queue(queue)
    return broker


def send_tickets(broker: TicketBroker, queue: str, count: int) -> bool:
    """To be called after the commit. False when Redis is away: the workers' stand-by and sweeper make up for it.

    `queue` empty: of a kind that no worker runs, so nobody is told.
    """
    if not queue:
        return True
    ticket: dramatiq.Message[None] = dramatiq.Message(
        queue_name=queue, actor_name=ACTOR, args=(), kwargs={}, options={}
    )
    try:
        for _ in range(count):
            broker.enqueue(ticket)
            broker.redis.end()
    except (BrokerConnectionError, redis.RedisError, OSError) as error:
        broker.redis.begin(error)
        return False
    return True


def waiting_tickets(broker: TicketBroker, queue: str) -> int:
    """Tickets that no worker has fetched yet. Raises redis.RedisError."""
    return int(broker.client.llen(f"{broker.namespace}:{queue}"))
