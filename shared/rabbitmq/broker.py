"""RabbitMQ as Dramatiq sees it."""

from functools import partial
from typing import Any

import dramatiq
from dramatiq.broker import Broker
from dramatiq.middleware import Middleware
from dramatiq.worker import ConsumerThread

from shared.amqp_urls import read_amqp_url
from shared.outage import Outage
from shared.rabbitmq.connecting import connect
from shared.rabbitmq.consumer import TicketConsumer
from shared.rabbitmq.post import Post
from shared.tickets import TicketBroker


class _NothingKept(Middleware):
    """A worker that takes no more tickets may go on for hours with what it runs: it leaves all others to others."""

    def before_consumer_thread_shutdown(self, _broker: Broker, thread: ConsumerThread) -> None:
        if thread.consumer is not None:
            thread.consumer.close()


class RabbitTickets(TicketBroker):
    """Dramatiq's own would keep tickets for good, in three queues each, and have whoever sends one wait.

    There is no delay, and nothing is kept of what failed: both are facts of jobs, in PostgreSQL.
    """

    def __init__(self, url: str, namespace: str) -> None:
        super().__init__(middleware=[_NothingKept()])
        self.queues: set[str] = set()
        self._address = read_amqp_url(url)
        self._namespace = namespace
        self._post = Post(self._address, namespace)
        self._consumers: list[TicketConsumer] = []
        self._standby = Outage("rabbitmq", "stand-by")

    def send(self, queue: str, tickets: int) -> bool:
        return self._post.send(queue, tickets)

    def waiting(self, queue: str) -> int:
        return self._post.waiting(queue)

    @property
    def trouble(self) -> BaseException | None:
        return self._post.trouble

    def there(self) -> bool:
        troubles = [self.trouble, *(consumer.trouble for consumer in self._consumers)]
        trouble = next(filter(None, troubles), None)
        if trouble is None:
            self._standby.end()
        else:
            self._standby.begin(trouble)
        return trouble is None

    def close(self) -> None:
        self._post.close()

    # What Dramatiq calls.

    def declare_queue(self, queue_name: str) -> None:
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self._post.serve([queue_name])
            self.emit_after("declare_queue", queue_name)

    def get_declared_queues(self) -> set[str]:
        return self.queues.copy()

    def enqueue(self, message: "dramatiq.Message[Any]", *, delay: int | None = None) -> "dramatiq.Message[Any]":  # noqa: ARG002
        self._post.send(message.queue_name, 1)
        return message

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 0) -> TicketConsumer:  # noqa: ARG002
        name = f"{self._namespace}:{queue_name}"
        dial = partial(connect, self._address, f"headway: fetches {queue_name}")
        consumer = TicketConsumer(dial, name, queue_name, prefetch)
        self._consumers = [consumer]
        return consumer
