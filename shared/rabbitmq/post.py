"""The post: one thread with one connection, which sends what all threads of the process want sent."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from threading import Event, Lock, Thread
from uuid import uuid4

import dramatiq
import pika
from dramatiq.errors import ConnectionClosed
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import AMQPError

from shared.amqp_urls import Amqp
from shared.outage import Outage
from shared.rabbitmq.connecting import AGAIN, connect, count, make_queue
from shared.rabbitmq.pulse import PATIENCE, Pulse
from shared.tickets import ACTOR

_PERIOD = 1.0
"""Seconds between two echoes."""

_UNSENT = 64
"""Tickets of one queue that wait while RabbitMQ is away."""

_CLOSING = 1.0
"""Seconds for the last tickets."""

Question = Callable[[BlockingChannel], int]


class Post:
    """Nobody who sends waits: threads say what they want and go on. It connects when it is first needed.

    Once a second it sends a message to itself. While that does not come, be it that RabbitMQ is away, stands still or
    takes nothing for want of memory or disk, it counts as away.
    """

    def __init__(self, address: Amqp, namespace: str) -> None:
        self._address = address
        self._namespace = namespace
        self._outage = Outage("rabbitmq", "tickets")
        self._pulse = Pulse()
        self._queues: set[str] = set()
        self._unsent: Counter[str] = Counter()
        self._questions: deque[tuple[Question, Future[int]]] = deque()
        self._lock = Lock()
        self._thread: Thread | None = None
        self._connection: BlockingConnection | None = None
        self._woken = False
        self._stopping = Event()

    def serve(self, queues: Iterable[str]) -> None:
        """They are made if they are not there. Before the first that is sent."""
        self._queues.update(queues)

    def send(self, queue: str, tickets: int) -> bool:
        """False while RabbitMQ is away: some are sent when it is back."""
        with self._lock:
            self._unsent[queue] = min(self._unsent[queue] + tickets, _UNSENT)
        self._wake()
        return self.trouble is None

    def waiting(self, queue: str) -> int:
        """Tickets that nobody has fetched. Raises ConnectionClosed."""
        name = self._name(queue)
        return self._ask(lambda channel: count(channel, name))

    @property
    def trouble(self) -> BaseException | None:
        """Why RabbitMQ counts as away, if it does."""
        self._start()
        if trouble := self._pulse.trouble:
            self._outage.begin(trouble)
        return trouble

    def close(self) -> None:
        """Sends what is left, if that does not take long."""
        self._stopping.set()
        self._wake()
        if self._thread is not None:
            self._thread.join(_CLOSING)

    def _ask(self, question: Question) -> int:
        if trouble := self.trouble:
            raise ConnectionClosed(trouble)
        answer: Future[int] = Future()
        self._questions.append((question, answer))
        self._wake()
        try:
            return answer.result(PATIENCE)
        except (TimeoutError, CancelledError) as error:
            answer.cancel()
            raise ConnectionClosed(error) from None

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._stopping.is_set():
                self._pulse = Pulse()  # the time begins now
                self._thread = Thread(target=self._run, name="post", daemon=True)
                self._thread.start()

    def _wake(self) -> None:
        self._start()
        connection = self._connection
        if connection is None or self._woken:
            return
        self._woken = True
        with suppress(AMQPError):  # closed: then it is tried with the next connection
            connection.add_callback_threadsafe(_nothing)

    # What follows belongs to the thread.

    def _run(self) -> None:
        while True:
            last, served, began = self._stopping.is_set(), False, time.monotonic()
            try:
                self._connection = connection = connect(self._address, "headway: sends tickets")
                try:
                    echo = self._open(connection)
                    served = True  # if it is lost the next one is made at once, and nobody need know
                    self._serve(connection, *echo)
                    return
                finally:
                    self._connection = None
                    with suppress(Exception):
                        connection.close()
            except Exception as error:  # noqa: BLE001  # whatever it is, RabbitMQ cannot be used
                self._pulse.asked()
                if not served:
                    self._pulse.failed(error)
                    self._outage.begin(error)
                while self._questions:
                    self._questions.popleft()[1].cancel()
                soon = served and time.monotonic() - began > AGAIN
                if last or (self._stopping.wait(0 if soon else AGAIN) and not served):
                    return

    def _open(self, connection: BlockingConnection) -> tuple[BlockingChannel, str]:
        for queue in sorted(self._queues):
            make_queue(connection, self._name(queue))
        channel = connection.channel()
        echo = self._name(f"echo.{uuid4()}")
        channel.queue_declare(echo, exclusive=True, auto_delete=True, arguments={"x-queue-type": "classic"})
        self._echo(channel, echo)
        return channel, echo

    def _serve(self, connection: BlockingConnection, channel: BlockingChannel, echo: str) -> None:
        """Until the end."""
        next_echo = time.monotonic() + _PERIOD
        while True:
            stopping = self._stopping.is_set()
            self._woken = False
            self._send(channel)
            self._answer(channel)
            if stopping:
                return
            if time.monotonic() >= next_echo:
                self._echo(channel, echo)
                next_echo = time.monotonic() + _PERIOD
            connection.process_data_events(max(0.0, next_echo - time.monotonic()))

    def _send(self, channel: BlockingChannel) -> None:
        with self._lock:
            unsent, self._unsent = self._unsent, Counter()
        for queue, tickets in unsent.items():
            for _ in range(tickets):
                ticket: dramatiq.Message[None] = dramatiq.Message(queue, ACTOR, (), {}, {})
                channel.basic_publish("", self._name(queue), ticket.encode(), pika.BasicProperties(delivery_mode=1))

    def _answer(self, channel: BlockingChannel) -> None:
        while self._questions:
            question, answer = self._questions.popleft()
            if answer.set_running_or_notify_cancel():
                self._pulse.asked()
                answer.set_result(question(channel))
                self._pulse.answered()

    def _echo(self, channel: BlockingChannel, echo: str) -> None:
        """A message, not a mere question: only those are held up when RabbitMQ is short of memory or disk."""
        self._pulse.asked()
        channel.basic_publish("", echo, b"", pika.BasicProperties(delivery_mode=1))
        channel.basic_get(echo, auto_ack=True)
        self._pulse.answered()
        self._outage.end()

    def _name(self, queue: str) -> str:
        return f"{self._namespace}:{queue}"


def _nothing() -> None:
    """Called by a connection that was woken."""
