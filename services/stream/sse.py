"""Server-Sent Events: the response that begins a stream, whichever way its bytes will travel, and those that do not."""

import asyncio
from contextlib import suppress
from http import HTTPStatus

from litestar.types import HTTPScope, Receive, Scope, Send

from services.stream.carrier import Limits
from services.stream.connection import Connection
from services.stream.hub import Hub
from services.stream.plain import Plain
from services.stream.viewer import Viewer
from shared.web.access import route
from shared.web.handover import Gone, listen_no_more, offered

_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
    # the end of a stream is the end of its connection: nothing else is to be asked on it
    (b"connection", b"close"),
]


class EventStream:
    """Carries one viewer until it is over, gone, or too old, and then gives it back to the hub."""

    def __init__(self, viewer: Viewer, limits: Limits, hub: Hub) -> None:
        self._viewer = viewer
        self._limits = limits
        self._hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        viewer, limits, hub = self._viewer, self._limits, self._hub
        now = asyncio.get_running_loop().time()
        handover = offered(scope)
        try:
            if handover is None:
                listen_no_more(scope)
                await _start(send)
                await Plain(viewer, limits, hub, now).speak(receive, send)
                await _end(send)
            else:
                await handover.start(send, HTTPStatus.OK, _HEADERS)
                with suppress(Gone):
                    Connection(viewer, limits, hub, now, route=route(scope)).take_over(handover)
        finally:
            if handover is None or not handover.taken:
                hub.leave(viewer)


class Refusal:
    """200, when to come back, why, end: any other status would end an EventSource for good."""

    def __init__(self, events: bytes) -> None:
        self._events = events

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        # with a length: without one the server would answer in chunks, also to those who speak HTTP/1.0 and know none
        await _start(send, (b"content-length", b"%d" % len(self._events)))
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


async def _start(send: Send, *more: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": [*_HEADERS, *more]})


async def _body(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _end(send: Send) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})
