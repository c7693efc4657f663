"""The workers' port: `GET /metrics`, `/health/live` and `/health/ready`, and nothing else.

For a prober and for Prometheus, in the loop that looks after the workers: that it answers says that they are looked
after.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus

from msgspec import Struct

_SECONDS = 5.0
"""That a connection has for its request and for taking the reply."""

_MOST = 32
"""Connections at once; further ones are closed."""

_LONGEST = 8192
"""Bytes of a request's head."""

_BACKLOG = 64


class PortError(Exception):
    """One sentence for whoever started this."""


class Reply(Struct):
    status: int
    body: bytes
    content_type: str = "application/json"


class Port:
    """`routes`: what is answered, by path."""

    def __init__(self, listener: socket.socket, routes: dict[str, Callable[[], Reply]]) -> None:
        self._listener = listener
        self._routes = routes
        self._open = 0

    async def serve(self) -> None:
        """Until it is cancelled."""
        server = await asyncio.start_server(self._answer, sock=self._listener, limit=_LONGEST, backlog=_BACKLOG)
        async with server:
            await server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= _MOST:
            writer.transport.abort()
            return
        self._open += 1
        try:
            async with asyncio.timeout(_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_encoded(self._reply(head)))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.transport.abort()  # nothing, if all went well
            self._open -= 1

    def _reply(self, head: bytes) -> Reply:
        method, _, rest = head.partition(b" ")
        path, _, version = rest.partition(b"\r\n")[0].partition(b" ")
        if not version.startswith(b"HTTP/1."):
            return Reply(HTTPStatus.BAD_REQUEST, b"")
        route = self._routes.get(path.partition(b"?")[0].decode("latin-1"))
        if route is None:
            return Reply(HTTPStatus.NOT_FOUND, b"")
        return route() if method == b"GET" else Reply(HTTPStatus.METHOD_NOT_ALLOWED, b"")


def _encoded(reply: Reply) -> bytes:
    lines = [
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
        f"Content-Type: {reply.content_type}",
        f"Content-Length: {len(reply.body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if reply.status == HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET")
    return "\r\n".join([*lines, "", ""]).encode() + reply.body


def listen(host: str, port: int) -> socket.socket:
    """Raises PortError when that cannot be had."""
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        if listener is not None:
            with suppress(OSError):
                listener.close()
        raise PortError(f"Cannot listen on {host} port {port}: {error.strerror or error}.") from None
    listener.setblocking(False)
    return listener
