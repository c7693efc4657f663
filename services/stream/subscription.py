"""A subscription: one topic on a WebSocket, and the viewer that tells what is new in it."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from services.stream.delivery import Delivery, Encoder
from services.stream.hub import Guest, Hub
from services.stream.messages import (
    batch_event_id,
    encode_batch,
    encode_batches,
    encode_logs,
    error_message,
    job_encoder,
    job_event_id,
    message,
)
from services.stream.viewer import Viewer
from shared.errors import FieldError, Forbidden, Invalid, NotFound, TooManyRequests
from shared.event_ids import LOGS_MAX, Filters
from shared.events import ErrorCode, Reset, encode

_PROGRESS = Filters("all", 0)
_LINES = Filters("none", LOGS_MAX)
_BOTH = Filters("all", LOGS_MAX)


class Asker(NamedTuple):
    """Who subscribes. `only` is the one batch that a ticket opens; None for a token."""

    owner: str
    only: UUID | None
    guest: Guest


class Subscription:
    """`wake` is called, with it, when `next` may have something."""

    __slots__ = ("_delivery", "_job_id", "_number", "_wake", "name", "over", "task", "viewer")

    def __init__(self, name: str, wake: Callable[["Subscription"], None]) -> None:
        self.name = name
        self.viewer: Viewer | None = None
        """None until it is open."""
        self.task: asyncio.Task[None] | None = None
        """In which it is being opened."""
        self.over: ErrorCode | None = None
        """Why nothing more will come."""
        self._wake = wake
        self._job_id: UUID | None = None
        self._delivery: Delivery | None = None
        self._number = 0
        """Of its next chunk, each of which is a message."""

    async def open(self, hub: Hub, asker: Asker, since: str) -> None:
        """`since`: an event id, or empty. Raises Invalid, Forbidden, NotFound, TooManyRequests and Unavailable."""
        kind, _, text = self.name.partition(":")
        if self.name == "batches":
            if asker.only is not None:
                raise Forbidden("a ticket opens only its batch's topics")
            self._watch(await hub.join_feed(asker.owner, encode_batches, guest=asker.guest))
            return
        subject = _uuid(text)
        filters, encode_as = _FORMS.get(kind, (_BOTH, None))
        batch_id = subject
        if kind == "job":
            found = await hub.history.batch_of(subject, asker.owner)
            if found is None:
                raise NotFound
            batch_id, self._job_id, encode_as = found, subject, job_encoder(subject)
            since = since and batch_event_id(since, subject, batch_id)
        if encode_as is None:
            raise Invalid(errors=[_NO_SUCH_TOPIC])
        if asker.only not in {None, batch_id}:
            raise NotFound
        self._watch(await hub.join(batch_id, asker.owner, filters, since, encode_as, guest=asker.guest))

    def _watch(self, viewer: Viewer) -> None:
        self.viewer = viewer
        viewer.carrier = self
        self.wake()

    def wake(self) -> None:
        self._wake(self)

    def next(self, *, begin: bool = True) -> bytes | None:
        """The next message, if there is one at present. Not `begin`: only of the delta that has begun."""
        viewer = self.viewer
        if viewer is None:
            return None
        while (chunk := self._under_way(viewer)) is None:
            if not begin or self.over or not (viewer.has_news or viewer.has_outlook):
                return None
            if viewer.dismissed is not None:
                self.over = viewer.dismissed
                return self._farewell(viewer)
            taken = viewer.take()
            if taken is None:
                return None
            reason, self._delivery = taken
            self._number = 0
            if reason is not None:
                return message("reset", self.name, encode(Reset(reason)), self._nothing_yet(viewer))
        return chunk

    def _under_way(self, viewer: Viewer) -> bytes | None:
        """The next message of the delta that has begun."""
        delivery = self._delivery
        if delivery is None:
            return None
        if delivery.lost:
            self._delivery = None
            viewer.go_back()
            return None
        chunk = delivery.chunk(self._number) if delivery.has(self._number) else None
        self._number += 1
        if not delivery.has(self._number):
            self._delivery = None  # who stands still in its last message holds nothing else
        return chunk

    def _farewell(self, viewer: Viewer) -> bytes | None:
        """Where it concerns this topic, and not the connection, which says so itself."""
        if viewer.dismissed == "deleted":
            return error_message("deleted", "The batch was deleted.", self.name)
        if viewer.dismissed == "too_many_connections":
            viewer.topic.audience.metrics.refusals["owner"] += 1
            return error_message("too_many_connections", TooManyRequests.title, self.name)
        return None

    def _nothing_yet(self, viewer: Viewer) -> str:
        event_id = viewer.topic.event_id(0, viewer.filters)
        return event_id if self._job_id is None else job_event_id(event_id, self._job_id)


_FORMS: dict[str, tuple[Filters, Encoder]] = {"batch": (_PROGRESS, encode_batch), "logs": (_LINES, encode_logs)}

_NO_SUCH_TOPIC = FieldError("topic", "expected batch:<id>, logs:<id>, job:<id> or batches")


def _uuid(text: str) -> UUID:
    """As we write it, so that one thing has one name."""
    try:
        value = UUID(text)
    except ValueError:
        raise Invalid(errors=[_NO_SUCH_TOPIC]) from None
    if str(value) != text:
        raise Invalid(errors=[_NO_SUCH_TOPIC])
    return value
