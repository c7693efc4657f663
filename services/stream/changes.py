"""What a stream would tell, as one reply that waits for it: for clients behind proxies that break streams."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import suppress
from http import HTTPStatus

from litestar.types import Receive, Scope, Send

from services.stream.buffer import STUCK
from services.stream.delivery import Delivery
from services.stream.frames import CHUNK, Story, chunked, packed, truncation
from services.stream.hub import Hub
from services.stream.inquiry import PATIENCE
from services.stream.viewer import Viewer
from shared.errors import NotFound, TooManyRequests, Unavailable
from shared.events import ResetReason, encode
from shared.web.departure import departed
from shared.web.handover import Gone, offered

_ROOM = STUCK + PATIENCE
"""Seconds that a reply waits for room: whoever stands still has lost its own by then."""

_LOOK = 1.0
"""Seconds between two looks whether what is being sent is lost."""

_HEADERS = [
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
]


def encode_changes(story: Story) -> Iterator[bytes]:
    """All of the reply's object but its beginning, which is not the same for everybody: see `_beginning`."""
    return chunked(_members(story))


class ChangesReply:
    """The response to one request; until it is sent its viewer is one like any other. Gives it back in the end."""

    def __init__(self, viewer: Viewer, hub: Hub, *, wait: float) -> None:
        """`wait`: seconds that it may take until there is something to tell."""
        self._viewer = viewer
        self._hub = hub
        self._wait = wait
        self._changed = asyncio.Event()
        self._delivery: Delivery | None = None
        """What is being sent, if it is long."""
        self._patience: asyncio.Timeout | None = None
        """While something is being sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        viewer = self._viewer
        gone = asyncio.get_running_loop().create_task(departed(receive))
        gone.add_done_callback(lambda _: self.wake())
        try:
            if self._wait:
                await self._hold(gone)
            else:  # there is no other way to learn of what was committed just now
                await self._hub.refresh(viewer)
            if not gone.done() and (taken := await self._take(gone)) is not None:
                await self._answer(*taken, scope, send, gone)
        finally:
            gone.cancel()
            self._hub.leave(viewer)

    async def _hold(self, gone: "asyncio.Task[None]") -> None:
        """Costs no thread and no connection to PostgreSQL."""
        self._viewer.carrier = self
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait):
                while not (gone.done() or self._viewer.has_news):
                    await self._changed.wait()
                    self._changed.clear()

    def wake(self) -> None:
        self._changed.set()

    def due(self, now: float) -> float | None:
        """For the wheel: what is being sent may be lost, and then there is no rest of it."""
        if self._delivery is None:
            return None
        if self._delivery.lost:
            self.cut()
            return None
        return now + _LOOK

    def cut(self) -> None:
        """End it at once."""
        if self._patience is not None:
            self._patience.reschedule(0)

    async def _take(self, gone: "asyncio.Task[None]") -> tuple[ResetReason | None, Delivery] | None:
        """None: its reader has gone. Raises NotFound, TooManyRequests and Unavailable."""
        viewer = self._viewer
        self._refuse()
        viewer.carrier = self
        taken = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_ROOM):
                while (taken := viewer.take()) is None and not (gone.done() or viewer.dismissed):
                    self._changed.clear()
                    await self._changed.wait()
        if taken is None and not gone.done():
            self._refuse()
            raise Unavailable("Too much is being sent at the moment.")
        return taken

    def _refuse(self) -> None:
        """If it is not to be told anything. Raises NotFound and TooManyRequests."""
        if self._viewer.dismissed == "deleted":
            raise NotFound
        if self._viewer.dismissed == "too_many_connections":
            raise TooManyRequests

    async def _answer(
        self, reason: ResetReason | None, delivery: Delivery, scope: Scope, send: Send, gone: "asyncio.Task[None]"
    ) -> None:
        metrics = self._hub.metrics
        metrics.opened["changes"] += 1
        end = "gone"
        if delivery.size:
            self._delivery = delivery
            self._hub.wheel.add(self, asyncio.get_running_loop().time() + _LOOK)
        try:
            async with asyncio.timeout(None) as self._patience:
                body = scope["method"] != "HEAD"  # type: ignore[typeddict-item]
                await self._tell(reason, delivery, send, body=body)
            if not gone.done():
                end = "finished"
        except TimeoutError:
            end = "stuck"
            _cut(scope)
        finally:
            self._delivery = self._patience = None
            metrics.closed["changes"][end] += 1

    async def _tell(self, reason: ResetReason | None, delivery: Delivery, send: Send, *, body: bool) -> None:
        """Raises TimeoutError when there is no rest of it."""
        viewer = self._viewer
        event_id = viewer.topic.event_id(delivery.position.version, viewer.filters)
        beginning = _beginning(event_id, delivery.position.version, reason, final=delivery.final)
        length, chunks = len(beginning), 0
        for chunk in delivery:
            length += len(chunk)
            chunks += 1
            await asyncio.sleep(0)
        headers = [*_HEADERS, (b"content-length", b"%d" % length)]
        if viewer.dismissed == "draining":  # its next request shall find another process
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": headers})
        for number in range(chunks) if body else ():
            if delivery.lost:
                raise TimeoutError
            await send({"type": "http.response.body", "body": beginning + delivery.chunk(number), "more_body": True})
            beginning = b""
            await asyncio.sleep(0)  # a connection that takes all of it at once has no claim to all of our time
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _cut(scope: Scope) -> None:
    """What was announced will not come. Where the socket cannot be had, the server closes it, as after a failure."""
    handover = offered(scope)
    if handover is not None:
        with suppress(Gone):
            handover.take(asyncio.Protocol()).abort()


def _beginning(event_id: str, version: int, reason: str | None, *, final: bool) -> bytes:
    facts = {"id": event_id, "version": version, "reset": reason is not None, "reason": reason, "done": final}
    return encode(facts)[:-1] + b","


def _members(story: Story) -> Iterator[bytes]:
    yield b'"batch":%b,"truncated":%b,"jobs":[' % (story.batch, truncation(story))
    yield from _joined(story.jobs)
    yield b'],"lines":['
    yield from _joined(story.lines)
    yield b"]}"


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for number, group in enumerate(packed(pieces, CHUNK)):
        yield (b"," if number else b"") + b",".join(group)
