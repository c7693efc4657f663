"""A round: everybody who watches a topic is told what is new, a portion at a time.

Who is at rest is told right here, at the price of a write to a socket; all others are woken and take turns.
"""

from os import write

from services.stream.audience import Audience, Crowd
from services.stream.causes import DeliverySpan
from services.stream.feed import Feed
from services.stream.pump import Pump
from services.stream.topic import Topic
from shared.event_ids import Filters

_PORTION = 64
"""Writes in one turn: a fraction of a millisecond."""


class Round:
    """Of one topic. One at a time: what becomes new meanwhile is for the next."""

    __slots__ = ("_again", "_audience", "_crowds", "_pump", "_span", "_topic", "queued")

    def __init__(self, topic: Topic | Feed, pump: Pump) -> None:
        self.queued = False
        self._topic = topic
        self._audience: Audience = topic.audience
        self._pump = pump
        self._crowds: list[Crowd] = []
        """Those that are still to be told."""
        self._again = False
        self._span: DeliverySpan | None = None

    def begin(self) -> None:
        """There is something new, or may be."""
        self._audience.tell(self._topic.version)
        if self._crowds:
            self._again = True
            return
        topic = self._topic
        if isinstance(topic, Topic):
            self._span = self._audience.causes.begin(topic.id, topic.version)
        self._count_woken(len(self._audience.awake))
        for viewer in tuple(self._audience.awake):
            viewer.on_change()
        try:
            for filters, crowd in tuple(self._audience.crowds.items()):
                self._gather(filters, crowd)
        finally:
            if self._crowds:
                self._pump.add(self)
            else:
                self._end_span()

    def turn(self, now: float) -> None:
        crowd = self._crowds[-1]
        self._tell(crowd, now)
        if not crowd.pending:
            crowd.pending = set()  # an emptied one keeps the room that it had
            self._crowds.pop()
        if self._crowds:
            self._pump.add(self)
            return
        self._end_span()
        if self._again:
            self._again = False
            self.begin()

    def cut(self) -> None:
        """A turn failed: whoever was to be told in it and in those that follow finds out alone."""
        for crowd in self._crowds:
            for socket in tuple(crowd.members):
                self._wake(crowd, socket)
        self._crowds.clear()
        self._again = False
        self._end_span()

    def _gather(self, filters: Filters, crowd: Crowd) -> None:
        topic, position = self._topic, crowd.position
        if position.version >= topic.version and (position.outlook >= topic.outlook or topic.final):
            return
        delivery = topic.delivery(crowd.position, filters)
        frame = None if delivery is None or delivery.final else delivery.only
        if delivery is None or frame is None:  # that takes each of them several turns, or is followed by its end
            for socket in tuple(crowd.members):
                self._wake(crowd, socket)
            return
        crowd.pending = set(crowd.members)
        crowd.before, crowd.position, crowd.frame = crowd.position, delivery.position, frame
        crowd.committed = delivery.committed
        if crowd.before.version < self._audience.behind:
            self._audience.metrics.merges += len(crowd.pending)
        self._crowds.append(crowd)

    def _wake(self, crowd: Crowd, socket: int) -> None:
        viewer = crowd.members[socket].viewer
        self._audience.wake(viewer)
        viewer.on_change()
        self._count_woken(1)

    def _count_woken(self, viewers: int) -> None:
        if self._span is not None:
            self._span.woken += viewers

    def _end_span(self) -> None:
        span, self._span = self._span, None
        if span is not None and isinstance(self._topic, Topic):
            span.end(self._topic.committed)

    def _tell(self, crowd: Crowd, now: float) -> None:
        """A portion of those who are still to be told."""
        crowd.spoke = now
        pending, frame = crowd.pending, crowd.frame
        size = len(frame)
        short = []
        portion = min(_PORTION, len(pending))
        for _ in range(portion):
            socket = pending.pop()
            try:
                written = write(socket, frame)
            except OSError:  # no room; or the other end is gone, which its transport finds out
                written = 0
            if written != size:
                short.append((socket, written))
        metrics = self._audience.metrics
        metrics.deliveries += portion
        total = size * (portion - len(short)) + sum(written for _, written in short)
        metrics.bytes += total
        if self._span is not None:
            self._span.told += portion
            self._span.bytes += total
        metrics.delivered(crowd.committed, portion - len(short))
        for socket, written in short:
            one = crowd.members[socket]
            self._audience.wake(one.viewer)
            one.carry_on(frame[written:], crowd.committed)
