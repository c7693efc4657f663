"""Work tickets. A Dramatiq message only says "queue Q has something to do"; what there is stands in PostgreSQL."""

import dramatiq
import redis
import structlog
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import BrokerConnectionError

from shared.channels import broker_namespace

ACTOR = "drain"

log = structlog.get_logger(__name__)


def make_broker(redis_url: str, namespace: str, queues: tuple[str, ...]) -> RedisBroker:
    """Without Dramatiq's usual middleware: retries, age and time limits are facts of jobs, kept in PostgreSQL."""
    broker = RedisBroker(  # type: ignore[no-untyped-call]
        url=redis_url,
        middleware=[],
        namespace=broker_namespace(namespace),
        # a killed worker's tickets come back after this; the sweeper does not wait for them
        heartbeat_timeout=15_000,
        maintenance_chance=10_000,
        socket_timeout=2,
        socket_connect_timeout=1,
    )
    for queue in queues:
        broker.declare_queue(queue)
    return broker


def ticket(queue: str) -> dramatiq.Message[None]:
    return dramatiq.Message(queue_name=queue, actor_name=ACTOR, args=(), kwargs={}, options={})


def send_tickets(broker: RedisBroker, queue: str, count: int) -> bool:
    """To be called after the commit. False when Redis is away: the workers' stand-by and sweeper make up for it."""
    try:
        for _ in range(count):
            broker.enqueue(ticket(queue))
    except (BrokerConnectionError, redis.RedisError, OSError):
        log.warning("redis is away, sent no tickets", queue=queue)
        return False
    return True
