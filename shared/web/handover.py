"""Handing a socket over: an ASGI extension by which it leaves the HTTP server for a protocol of the application's own.

The application starts its response as always, through every layer around it, and then takes the connection. From then
on nothing of the server is left but the transport: no parser, no cycle, no timer, no entry in the server's books. Where
a server does not offer the extension, or TLS ends in it, the application goes on with plain ASGI.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from litestar.types import Scope, Send

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from shared.web.protocol import Protocol

EXTENSION = "headway.handover"
LAST = "headway.last"
"""Where TLS ends in the server: a function by which the application says that its answer ends with the connection."""


class Gone(Exception):
    """The client has left, or the server has given it up, before its socket could be handed over."""


class Handover:
    """Of one request; valid until it is answered in any other way."""

    __slots__ = ("_cycle", "_protocol", "taken")

    def __init__(self, protocol: "Protocol", cycle: "RequestResponseCycle") -> None:
        self._protocol: Protocol | None = protocol
        self._cycle: RequestResponseCycle | None = cycle
        self.taken = False

    async def start(self, send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The head, whose body has no length: it ends with the connection, so `Connection: close` must be in it."""
        if self._cycle is not None:
            self._cycle.chunked_encoding = False  # uvicorn would say "chunked", also to those who cannot read that
        await send({"type": "http.response.start", "status": status, "headers": headers})

    def take(self, successor: asyncio.Protocol) -> asyncio.Transport:
        """The transport, whose protocol is `successor` now; after `start`. Raises Gone.

        `connection_made` is not called. There is room to write: `start` has waited for it.
        """
        protocol, cycle = self._protocol, self._cycle
        self._protocol = self._cycle = None
        if protocol is None or cycle is None or cycle.disconnected or protocol.transport.is_closing():
            raise Gone
        self.taken = True
        return protocol.give_away(cycle, successor)


def offered(scope: Scope | Mapping[str, Any]) -> Handover | None:
    """What the server offers for this request."""
    extensions: Mapping[str, Any] = scope.get("extensions") or {}
    return extensions.get(EXTENSION)


def listen_no_more(scope: Scope | Mapping[str, Any]) -> None:
    """The server throws away whatever the client still sends, if it offers that, and so sees the client go."""
    extensions: Mapping[str, Any] = scope.get("extensions") or {}
    last: Callable[[], None] | None = extensions.get(LAST)
    if last is not None:
        last()
