"""A viewer: somebody's place in one topic. A cursor and not a queue, so being slow costs nobody anything."""

from typing import Protocol

from services.stream.census import Place, Tally
from services.stream.delivery import START, Delivery, Encoder, Position
from services.stream.feed import Feed
from services.stream.frames import encode_story, reset_event
from services.stream.topic import Topic
from shared.event_ids import Filters
from shared.events import ErrorCode, ResetReason


class Carrier(Protocol):
    """Whatever carries the bytes."""

    def wake(self) -> None: ...


class Viewer:
    """Its `carrier` pulls when it can write, and is woken when pulling may be worth it.

    A viewer that cannot write is left alone: the next pull takes one delta from where it is to the present.
    """

    __slots__ = (
        "_before",
        "_chunk",
        "_delivery",
        "_encode",
        "_farewell",
        "_fresh",
        "_reason",
        "carrier",
        "dismissed",
        "filters",
        "over",
        "place",
        "position",
        "socket",
        "spoke",
        "topic",
    )

    def __init__(self, topic: Topic | Feed, filters: Filters, encode: Encoder = encode_story) -> None:
        self.topic = topic
        self.filters = filters
        self.position = START
        self.carrier: Carrier | None = None
        self.socket = -1
        """Of its own, while it is at rest in the crowd that has its place; then `position` is the crowd's, not this."""
        self.spoke = 0.0
        """When it was last sent something, by the clock of the event loop."""
        self.over = False
        """Nothing more will come: the connection may end."""
        self.place: Place | Tally | None = None
        """Where it is counted."""
        self.dismissed: ErrorCode | None = None
        """Why it is to end, if somebody wants that."""
        self._encode = encode
        self._reason: ResetReason | None = None
        self._farewell: bytes | None = None
        self._fresh = True
        """What it gets next happened before it came, perhaps long before."""
        self._delivery: Delivery | None = None
        self._chunk = 0
        self._before = self.position
        """Where it was when that began."""

    @property
    def between(self) -> bool:
        """Whether it is between two deltas, where other events may go in."""
        return self._delivery is None

    @property
    def given_up(self) -> bool:
        """What it was being sent is lost in the middle of an event: its connection can only end."""
        delivery = self._delivery
        return delivery is not None and delivery.lost and not delivery.divisible

    @property
    def has_everything(self) -> bool:
        """The batch is finished, and its reader knows: nothing will follow unless it is reopened."""
        return self.topic.final and self.position.version == self.topic.version

    @property
    def has_news(self) -> bool:
        """Whether there is something to tell, or an end."""
        behind = self.position.version < self.topic.version
        return behind or self._reason is not None or self.dismissed is not None

    @property
    def has_outlook(self) -> bool:
        """Whether there is nothing to tell but what is expected of the batch by now."""
        position, topic = self.position, self.topic
        return position.outlook < topic.outlook and position.version == topic.version and not topic.final

    @property
    def has_more(self) -> bool:
        """Whether the next pull may give something, as far as is known now."""
        return self._delivery is not None or ((self.has_news or self.has_outlook) and not self.over)

    def take(self) -> tuple[ResetReason | None, Delivery] | None:
        """All that there is, for a reader that is told in one piece; and why it must forget what it has, if so. None
        while there is no room for so much; its carrier is woken when there may be.
        """
        reason = self._reason
        if reason is not None:
            self.position = START
        self._before = self.position
        delivery = self._advance()
        if delivery is None:
            return None
        if reason is not None:
            self.topic.audience.metrics.resets[reason] += 1
            self._reason = None
        return reason, delivery

    def pull(self) -> bytes | None:
        """The next bytes to send, at most frames.CHUNK; None when there are none at present."""
        delivery = self._delivery
        if delivery is not None and delivery.lost:
            self.over = self.over or self.given_up
            self.go_back()
            delivery = None
        if delivery is None:
            if self.over:
                return None
            if self._farewell is not None:
                self.over = True
                return self._farewell
            if self._reason is not None:
                return self._forget(self._reason)
            if self.position.version >= self.topic.version and not self.has_outlook:
                self._fresh = False
                return None
            self._before = self.position
            delivery = self._delivery = self._advance()
            if delivery is None:
                return None
            self._chunk = 0
        chunk = delivery.chunk(self._chunk)
        self._chunk += 1
        if not delivery.has(self._chunk):
            self.over = delivery.final
            self._delivery = None
        return chunk

    def go_back(self) -> None:
        """What it was being sent is lost: it begins again from where it was before."""
        self._delivery = None
        self.position = self._before

    def begin(self, start: Position | ResetReason) -> None:
        """Where its reader begins, or why it must begin anew; as things are now, whatever was before."""
        self.position = start if isinstance(start, Position) else START
        self._reason = None if isinstance(start, Position) else start
        self.topic.audience.wake(self)

    def reset(self, reason: ResetReason) -> None:
        """What it was sent counts for nothing now: it is told so once what it is being sent is through."""
        self.topic.audience.wake(self)
        self._reason = reason

    def dismiss(self, why: ErrorCode, farewell: bytes) -> None:
        """These are the last events, after what it is being sent."""
        self.dismissed = why
        self._farewell = farewell
        self.topic.audience.wake(self)
        self.on_change()

    def on_change(self) -> None:
        """There may be something to pull."""
        if self.carrier is not None:
            self.carrier.wake()

    def let_go(self) -> None:
        """It has left. Whoever carried it may stand on the wheel for a while yet: that keeps nothing large alive."""
        self.carrier = None
        self._delivery = None
        self.topic.buffer.forget(self)

    def _advance(self) -> Delivery | None:
        """None: there is no room for it at present."""
        since, audience = self.position.version, self.topic.audience
        buffer = self.topic.buffer
        if buffer.waiting and buffer.waits(self):
            return None
        delivery = self.topic.delivery(self.position, self.filters, self._encode, self)
        if delivery is None:
            buffer.wait(self)
            return None
        if buffer.waiting:
            buffer.forget(self)
        self.position = delivery.position
        audience.metrics.deliveries += 1
        if since and not self._fresh:
            audience.metrics.delivered(delivery.committed)
            if since < audience.behind:
                audience.metrics.merges += 1
        self._fresh = False
        return delivery

    def _forget(self, reason: ResetReason) -> bytes:
        self.topic.audience.metrics.resets[reason] += 1
        self._reason = None
        self.position = START
        return reset_event(reason, self.topic.event_id(0, self.filters))
