"""Server-Sent Events over plain ASGI: one task that pulls from a viewer whenever it can send."""

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus

from litestar.types import HTTPScope, Receive, Scope, Send
from msgspec import Struct

from services.stream.frames import ping_event, timeout_event
from services.stream.viewer import Viewer
from shared.events import TimeoutReason, sse_retry
from shared.web.departure import departed

RETRY = 2000
"""Milliseconds after which an EventSource that was cut off connects again."""

_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
    # the end of a stream is the end of its connection: nothing else is to be asked on it
    (b"connection", b"close"),
]


class Limits(Struct, frozen=True):
    """Of one connection. `heartbeat` is seconds of silence; `end` is by the clock of the event loop."""

    heartbeat: float
    end: float
    reason: TimeoutReason


class EventStream:
    """The response that carries one viewer until it is over, gone, or too old. Calls `leave` in the end."""

    def __init__(self, viewer: Viewer, limits: Limits, leave: Callable[[Viewer], None]) -> None:
        self._viewer = viewer
        self._limits = limits
        self._leave = leave

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        viewer = self._viewer
        changed = asyncio.Event()
        viewer.on_change = changed.set
        # a closed connection shows here, not as an error of `send`
        gone = asyncio.get_running_loop().create_task(departed(receive))
        gone.add_done_callback(lambda _: changed.set())
        try:
            await _start(send)
            await _body(send, sse_retry(RETRY))
            while not gone.done() and (chunk := await self._next(changed, gone)):
                await _body(send, chunk)
            await _end(send)
        finally:
            gone.cancel()
            self._leave(viewer)

    async def _next(self, changed: asyncio.Event, gone: "asyncio.Task[None]") -> bytes:
        """The next bytes, waited for; empty at the end."""
        viewer, limits = self._viewer, self._limits
        loop = asyncio.get_running_loop()
        silent = loop.time() + limits.heartbeat
        while not gone.done():
            if viewer.between and not viewer.over and loop.time() >= limits.end:
                viewer.over = True
                return timeout_event(limits.reason)
            changed.clear()
            if (chunk := viewer.pull()) is not None:
                return chunk
            if viewer.over:
                break
            try:
                async with asyncio.timeout_at(min(silent, limits.end)):
                    await changed.wait()
            except TimeoutError:
                if loop.time() >= silent:
                    return ping_event(time.time_ns() // 1_000_000)
        return b""


class Refusal:
    """200, when to come back, why, end: any other status would end an EventSource for good."""

    def __init__(self, events: bytes) -> None:
        self._events = events

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await _start(send)
        await _body(send, self._events)
        await _end(send)


async def headers_only(_scope: Scope, _receive: Receive, send: Send) -> None:
    """What HEAD gets."""
    await _start(send)
    await _end(send)


async def nothing_more(_scope: Scope, _receive: Receive, send: Send) -> None:
    """204 tells an EventSource to stop."""
    await send({"type": "http.response.start", "status": HTTPStatus.NO_CONTENT, "headers": _HEADERS[1:2]})
    await _end(send)


def accepts_events(scope: HTTPScope) -> bool:
    """Whether the client takes Server-Sent Events, by what it says or because it says nothing."""
    accept = b",".join(value for name, value in scope["headers"] if name == b"accept").lower()
    wanted = {part.partition(b";")[0].strip() for part in accept.split(b",")}
    return not accept or not wanted.isdisjoint({b"text/event-stream", b"text/*", b"*/*"})


async def _start(send: Send) -> None:
    await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": _HEADERS})


async def _body(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _end(send: Send) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})
