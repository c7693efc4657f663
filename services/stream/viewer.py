"""A viewer: somebody's place in one topic. A cursor and not a queue, so being slow costs nobody anything."""

from collections.abc import Callable

from services.stream.census import Place
from services.stream.frames import encode_story, reset_event
from services.stream.topic import Delivery, Encoder, Position, Topic
from shared.event_ids import Filters
from shared.events import ErrorCode, ResetReason


class Viewer:
    """Whatever carries the bytes pulls when it can write; `on_change` (set by it) says that pulling may be worth it.

    A viewer that cannot write is left alone: the next pull takes one delta from where it is to the present.
    """

    __slots__ = (
        "_chunk",
        "_delivery",
        "_encode",
        "_farewell",
        "_reason",
        "carry_on",
        "dismissed",
        "filters",
        "on_change",
        "over",
        "place",
        "position",
        "socket",
        "spoke",
        "topic",
    )

    def __init__(self, topic: Topic, filters: Filters, encode: Encoder = encode_story) -> None:
        self.topic = topic
        self.filters = filters
        self.position = Position()
        self.on_change: Callable[[], None] = _nobody_listens
        self.socket = -1
        """Of its own, while it is at rest in the crowd that has its place; then `position` is the crowd's, not this."""
        self.carry_on: Callable[[bytes], None] = _nobody_carries
        """Told what the socket did not take of what it was sent at rest."""
        self.spoke = 0.0
        """When it was last sent something, by the clock of the event loop."""
        self.over = False
        """Nothing more will come: the connection may end."""
        self.place: Place | None = None
        """Where it is counted."""
        self.dismissed: ErrorCode | None = None
        """Why it is to end, if somebody wants that."""
        self._encode = encode
        self._reason: ResetReason | None = None
        self._farewell: bytes | None = None
        self._delivery: Delivery | None = None
        self._chunk = 0

    @property
    def between(self) -> bool:
        """Whether it is between two deltas, where other events may go in."""
        return self._delivery is None

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
    def has_more(self) -> bool:
        """Whether the next pull may give something, as far as is known now."""
        return self._delivery is not None or (self.has_news and not self.over)

    def take(self) -> tuple[ResetReason | None, Delivery]:
        """All that there is, for a reader that is told in one piece; and why it must forget what it has, if so."""
        reason, self._reason = self._reason, None
        if reason is not None:
            self.position = Position()
        delivery = self.topic.delivery(self.position, self.filters, self._encode)
        self.position = delivery.position
        return reason, delivery

    def pull(self) -> bytes | None:
        """The next bytes to send, at most frames.CHUNK; None when there are none at present."""
        if self._delivery is None:
            if self.over:
                return None
            if self._farewell is not None:
                self.over = True
                return self._farewell
            if self._reason is not None:
                return self._forget(self._reason)
            if self.position.version >= self.topic.version:
                return None
            self._delivery = self.topic.delivery(self.position, self.filters, self._encode)
            self.position = self._delivery.position
            self._chunk = 0
        chunk = self._delivery.chunks[self._chunk]
        self._chunk += 1
        if self._chunk == len(self._delivery.chunks):
            self.over = self._delivery.final
            self._delivery = None
        return chunk

    def begin(self, start: Position | ResetReason) -> None:
        """Where its reader begins, or why it must begin anew; as things are now, whatever was before."""
        self.position = start if isinstance(start, Position) else Position()
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

    def _forget(self, reason: ResetReason) -> bytes:
        self._reason = None
        self.position = Position()
        return reset_event(reason, self.topic.event_id(0, self.filters))


def _nobody_listens() -> None:
    pass


def _nobody_carries(rest: bytes) -> None:
    pass
