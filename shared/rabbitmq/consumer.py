"""The consumer: fetches a worker process's tickets, one for each of its threads."""

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import get_ident
from typing import Any

import dramatiq
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import ConnectionClosed
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import AMQPError

from shared.rabbitmq.connecting import AGAIN, count, make_queue
from shared.rabbitmq.pulse import Pulse
from shared.tickets import ACTOR

_PERIOD = 1.0
"""Seconds between two looks whether RabbitMQ is still there, and the queue in it."""

_WAIT = 0.2
"""Seconds for which one look for tickets lasts; one that comes ends it."""

_HELD = 5.0
"""Seconds after which a ticket is acknowledged although its thread is still at work: a job may last for hours, and
RabbitMQ closes the channel of whoever keeps a message for long.
"""


class Ticket(MessageProxy):
    """One that was fetched."""

    def __init__(self, message: "dramatiq.Message[Any]") -> None:
        super().__init__(message)
        self.done = False
        """Set by the thread that had it."""


class _Slot:
    """A thread's place: while it has a ticket, it gets no other."""

    def __init__(self) -> None:
        self.tag: str | None = None
        """By which it is subscribed; RabbitMQ gives each subscription one message at a time."""
        self.ticket: Ticket | None = None
        self.delivery: int | None = None
        """Of the ticket, as long as it is not acknowledged."""
        self.since = 0.0


class TicketConsumer(Consumer):
    """Reconnects by itself: Dramatiq, which would wait three seconds first, never hears of an outage.

    All but `ack`, `nack` and `trouble` belongs to the thread that asks for tickets.
    """

    def __init__(self, dial: Callable[[], BlockingConnection], name: str, queue: str, slots: int) -> None:
        """`dial` connects; `name` is RabbitMQ's for the queue."""
        self._dial = dial
        self._name = name
        self._queue = queue
        self._slots = [_Slot() for _ in range(slots)]
        self._tickets: deque[Ticket] = deque()
        self._pulse = Pulse()
        self._connection: BlockingConnection | None = None
        self._channel: BlockingChannel | None = None
        self._opened = self._next_attempt = self._next_look = 0.0
        self._thread = 0
        self._cancelled = self._closed = False

    @property
    def trouble(self) -> BaseException | None:
        """Why no tickets come, if none can."""
        return None if self._closed else self._pulse.trouble

    def __next__(self) -> Ticket | None:
        self._thread = get_ident()
        if self._closed:
            time.sleep(_WAIT)
            return None
        try:
            self._turn()
        except Exception as error:  # noqa: BLE001  # whatever it is, RabbitMQ cannot be used
            self._lose(error)
        return self._tickets.popleft() if self._tickets else None

    def ack(self, message: Any) -> None:
        message.done = True
        channel = self._channel
        if channel is not None:
            with suppress(AMQPError):  # closed: then RabbitMQ has taken the ticket back
                channel.connection.add_callback_threadsafe(_nothing)

    nack = ack

    def close(self) -> None:
        """Tickets that are not done go to others."""
        self._closed = True
        if get_ident() == self._thread:
            with suppress(Exception):
                if self._channel is not None:
                    self._tend(self._channel)
            self._drop()

    def _turn(self) -> None:
        if self._channel is None:
            if time.monotonic() < self._next_attempt:
                time.sleep(_WAIT)
                return
            self._channel = self._open()
        channel = self._channel
        self._tend(channel)
        if time.monotonic() >= self._next_look:
            self._look(channel)
        if not self._tickets:
            channel.connection.process_data_events(_WAIT)
        if self._cancelled:
            raise ConnectionClosed("the queue is gone")

    def _open(self) -> BlockingChannel:
        self._cancelled = False
        self._opened = time.monotonic()
        self._connection = self._dial()
        make_queue(self._connection, self._name)
        channel = self._connection.channel()
        channel.basic_qos(prefetch_count=1)  # of each subscription
        channel.add_on_cancel_callback(self._cancel)
        self._look(channel)
        return channel

    def _look(self, channel: BlockingChannel) -> None:
        self._pulse.asked()
        count(channel, self._name)
        self._pulse.answered()
        self._next_look = time.monotonic() + _PERIOD

    def _tend(self, channel: BlockingChannel) -> None:
        """Each slot is subscribed, unless it has a ticket that was acknowledged before it was done."""
        now = time.monotonic()
        for slot in self._slots:
            ticket = slot.ticket
            if ticket is not None and ticket.done:
                self._acknowledge(channel, slot)
                slot.ticket = None
            elif slot.tag is not None and slot.delivery is not None and now - slot.since > _HELD:
                channel.basic_cancel(slot.tag)
                slot.tag = None
                self._acknowledge(channel, slot)
            if slot.ticket is None and slot.tag is None:
                slot.tag = channel.basic_consume(self._name, partial(self._deliver, slot))

    def _acknowledge(self, channel: BlockingChannel, slot: _Slot) -> None:
        if slot.delivery is not None:
            channel.basic_ack(slot.delivery)
            slot.delivery = None

    def _deliver(self, slot: _Slot, _channel: BlockingChannel, method: Any, _properties: Any, _body: bytes) -> None:
        """Whatever the message says: there is something to do."""
        slot.ticket = Ticket(dramatiq.Message(self._queue, ACTOR, (), {}, {}))
        slot.delivery = method.delivery_tag
        slot.since = time.monotonic()
        self._tickets.append(slot.ticket)

    def _cancel(self, _frame: Any) -> None:
        """Called when RabbitMQ ends a subscription: somebody deleted the queue, or its node is gone."""
        self._cancelled = True

    def _lose(self, error: BaseException) -> None:
        """What could be used for a while is connected again at once, and nobody need know."""
        if self._channel is None:
            self._pulse.failed(error)
        now = time.monotonic()
        soon = self._channel is not None and now - self._opened > AGAIN
        self._next_attempt = now if soon else now + AGAIN
        self._drop()
        self._pulse.asked()

    def _drop(self) -> None:
        """RabbitMQ takes back what was not acknowledged."""
        connection, self._connection, self._channel = self._connection, None, None
        for ticket in self._tickets:
            ticket.done = True
        self._tickets.clear()
        for slot in self._slots:
            slot.tag = slot.delivery = None
        if connection is not None:
            with suppress(Exception):
                connection.close()


def _nothing() -> None:
    """Called by a connection that was woken."""
