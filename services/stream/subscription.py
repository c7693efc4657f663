"""A subscription: one topic on a WebSocket, and the viewer that tells what is new in it."""

import asyncio
from collections.abc import Callable, Iterator
from typing import NamedTuple
from uuid import UUID

from services.stream.delivery import Encoder
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
from shared.errors import FieldError, Forbidden, Invalid, NotFound
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

    __slots__ = ("_chunks", "_job_id", "_wake", "name", "over", "task", "viewer")

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
        self._chunks: Iterator[bytes] = iter(())

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
        while (chunk := next(self._chunks, None)) is None:
            if viewer is None or not begin or self.over or not viewer.has_news:
                return None
            if viewer.dismissed is not None:
                self.over = viewer.dismissed
                return error_message("deleted", "The batch was deleted.", self.name) if self.over == "deleted" else None
            taken = viewer.take()
            if taken is None:
                return None
            reason, delivery = taken
            self._chunks = iter(delivery)
            if reason is not None:
                return message("reset", self.name, encode(Reset(reason)), self._nothing_yet(viewer))
        return chunk

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
