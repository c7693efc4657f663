"""What a stream would tell, as one reply that waits for it: for clients behind proxies that break streams."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import suppress
from http import HTTPStatus

from litestar.types import Receive, Scope, Send

from services.stream.delivery import Delivery
from services.stream.frames import CHUNK, Story, chunked, packed, truncation
from services.stream.hub import Hub
from services.stream.inquiry import PATIENCE
from services.stream.viewer import Viewer
from shared.errors import NotFound, TooManyRequests, Unavailable
from shared.events import ResetReason, encode
from shared.web.departure import departed

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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        viewer = self._viewer
        gone = asyncio.get_running_loop().create_task(departed(receive))
        try:
            if self._wait:
                await self._hold(gone)
            else:  # there is no other way to learn of what was committed just now
                await self._hub.refresh(viewer)
            if not gone.done():
                await self._answer(send, body=scope["method"] != "HEAD")  # type: ignore[typeddict-item]
        finally:
            gone.cancel()
            self._hub.leave(viewer)

    async def _hold(self, gone: "asyncio.Task[None]") -> None:
        """Costs no thread and no connection to PostgreSQL."""
        self._viewer.carrier = self
        gone.add_done_callback(lambda _: self.wake())
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait):
                while not (gone.done() or self._viewer.has_news):
                    await self._changed.wait()
                    self._changed.clear()

    def wake(self) -> None:
        self._changed.set()

    async def _take(self) -> tuple[ResetReason | None, Delivery]:
        """Raises Unavailable."""
        viewer = self._viewer
        viewer.carrier = self
        try:
            async with asyncio.timeout(PATIENCE):
                while (taken := viewer.take()) is None:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise Unavailable("Too much is being sent at the moment.") from None
        return taken

    async def _answer(self, send: Send, *, body: bool) -> None:
        viewer = self._viewer
        if viewer.dismissed == "deleted":
            raise NotFound
        if viewer.dismissed == "too_many_connections":
            raise TooManyRequests
        reason, delivery = await self._take()
        event_id = viewer.topic.event_id(delivery.position.version, viewer.filters)
        chunks = []
        for chunk in delivery:
            chunks.append(chunk)
            await asyncio.sleep(0)
        first, *rest = chunks
        first = _beginning(event_id, delivery.position.version, reason, final=delivery.final) + first
        headers = [*_HEADERS, (b"content-length", b"%d" % (len(first) + sum(map(len, rest))))]
        if viewer.dismissed == "draining":  # its next request shall find another process
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": headers})
        for chunk in (first, *rest) if body else ():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await asyncio.sleep(0)  # a connection that takes all of it at once has no claim to all of our time
        await send({"type": "http.response.body", "body": b"", "more_body": False})


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
