"""HTTP as uvicorn speaks it, with bounds for what comes before a body: its parser has none, and waits for ever.

It also offers to hand the socket over. What that relies on in uvicorn is pinned by tests/integration/test_handover.py.
"""

import asyncio
import re
import socket
from functools import partial
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import is_ssl

from shared.errors import AddressTooLong, HeadersTooLarge, HeadwayError, Malformed, problem
from shared.events import encode
from shared.web.handover import EXTENSION, LAST, Handover

LONGEST_ADDRESS = 16 * 1024
"""Bytes of a path with its query; the longest of ours, with ticket and event id, have a quarter of that."""
LONGEST_HEADERS = 32 * 1024
"""Bytes of all headers together, the trailers of a body included; a token may have 8 KiB."""
MOST_HEADERS = 100

HEAD_SECONDS = 10.0
"""For a request's first line and headers, from the connection or the first byte on."""
BODY_SECONDS = 60.0
"""Without a byte of a body that was announced, while we wait for one."""
_LINGER = 2.0
"""Seconds to read what a refused client still sends: a connection that is closed before may take the refusal along."""

_HOST = re.compile(rb"(\[[0-9A-Fa-fvV:.]+\]|[\w.~!$&'()*+,;=%-]*)(:\d*)?", re.ASCII)
"""What may stand in `Host` (RFC 9112, 3.2, and RFC 3986, 3.2.2): a name or an address, and a port; nothing, too."""


Address = tuple[str, int] | None


class Refused(Exception):
    """Ends the parsing; why stands in the protocol."""


class Protocol(HttpToolsProtocol):
    """Answers 400, 414 and 431 as problems, and closes. Whoever is too slow is cut off without a word."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._stage = "idle"
        self._headers = self._bytes = 0
        self._hosts: list[bytes] = []
        self._unparsed = 0
        """Bytes since the parser last found something."""
        self._found = False
        self._refusal: HeadwayError | None = None
        self._refused = False
        self._deaf = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # not uvicorn's own: by that uvloop would keep two addresses for as long as there is the connection
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.scheme = "https" if is_ssl(transport) else "http"
        self.server, self.client = _addresses(transport)
        self._allow(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused or self._deaf:
            return
        self._found = False
        super().data_received(data)
        if self._refused or self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        self._unparsed = 0 if self._found else self._unparsed + len(data)
        if self._unparsed > LONGEST_HEADERS:
            self._refuse(HeadersTooLarge())
        elif self._stage == "body":
            if self._deadline is None or not self.cycle.response_complete:  # what is answered has no more than this
                self._allow(BODY_SECONDS)
        elif self._stage == "idle" and self._found:
            self._clear()  # the request is complete; uvicorn limits the silence before the next
        elif self._deadline is None:
            self._allow(HEAD_SECONDS)

    def on_message_begin(self) -> None:
        self._found = True
        self._stage = "head"
        self._headers = self._bytes = 0
        self._hosts = []
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._found = True
        super().on_url(url)
        if len(self.url) > LONGEST_ADDRESS:
            self._stop(AddressTooLong(f"the address is longer than {LONGEST_ADDRESS} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._found = True
        self._headers += 1
        self._bytes += len(name) + len(value) + len(": \r\n")
        if self._headers > MOST_HEADERS or self._bytes > LONGEST_HEADERS:
            self._stop(
                HeadersTooLarge(f"there are more than {MOST_HEADERS} headers or {LONGEST_HEADERS} bytes of them")
            )
        if name.lower() == b"host":
            self._hosts.append(value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._found = True
        self._check_host()
        self._stage = "body"
        self._clear()
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            extension = (
                {EXTENSION: Handover(self, self.cycle)}
                if self.scheme == "http"
                else {LAST: partial(self.listen_no_more, self.cycle)}
            )
            self.scope["extensions"] = extension  # type: ignore[typeddict-item]

    def on_body(self, body: bytes) -> None:
        self._found = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._found = True
        self._stage = "idle"
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's words, and not for our clients
        self._refuse(self._refusal or Malformed("this is not HTTP/1.1"))

    def handle_websocket_upgrade(self) -> None:
        self._clear()
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # an earlier answer is under way, and would end up in the conversation
        elif self.scope["http_version"] != "1.1" or not self.url.isascii():  # uvicorn would say that it was 1.1
            self._refuse(Malformed("this is not the handshake of a WebSocket as RFC 6455 has it"))
        else:
            super().handle_websocket_upgrade()

    def give_away(self, cycle: RequestResponseCycle, successor: asyncio.Protocol) -> asyncio.Transport:
        """The connection, in the middle of the answer of `cycle`, to somebody else, for good."""
        transport, flow = self.transport, self.flow
        self._clear()
        self._unset_keepalive_if_required()
        self.connections.discard(self)  # a shutdown would wait for us
        self.pipeline.clear()  # whatever else was asked is not answered: the head says that this connection ends
        self.parser = None  # type: ignore[assignment]  # it holds us
        self.cycle = None  # type: ignore[assignment]
        # the application may return now: its answer is nobody's business any more
        cycle.disconnected = True
        cycle.body = bytearray()
        cycle.message_event.set()
        transport.set_protocol(successor)
        # a pipelined request or a long body stopped the reading, and then the end of the connection is never seen
        flow.resume_reading()
        return transport

    def _check_host(self) -> None:
        """Servers and proxies that took different ones for it would see different requests (RFC 9112, 3.2)."""
        if not self._hosts and self.parser.get_http_version() == "1.0":
            return
        if len(self._hosts) != 1 or not _HOST.fullmatch(self._hosts[0]):
            self._stop(Malformed("a request has one header Host, with a name or an address"))

    def listen_no_more(self, cycle: RequestResponseCycle) -> None:
        """The answer of `cycle` is the connection's last. What was asked behind it stopped the reading, and uvicorn
        tells only the newest request that the client has gone.
        """
        if self.transport.is_closing():
            cycle.disconnected = True
            cycle.message_event.set()
            return
        self._deaf = True
        self._clear()
        self.pipeline.clear()
        self.cycle = cycle
        self.flow.resume_reading()

    def _stop(self, error: HeadwayError) -> None:
        self._refusal = error
        raise Refused

    def _refuse(self, error: HeadwayError) -> None:
        self._refused = True
        self._clear()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or self._stage != "body":
                self.transport.abort()  # an earlier answer is under way, and this one would end up in it
                return
            cycle.disconnected = True  # whatever the application is about to say
            cycle.message_event.set()
        self.transport.write(_response(error))
        self.transport.write_eof()
        self._deadline = self.loop.call_later(_LINGER, self.transport.abort)

    def _allow(self, seconds: float) -> None:
        self._clear()
        self._deadline = self.loop.call_later(seconds, self._give_up, seconds)

    def _clear(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self, seconds: float) -> None:
        self._deadline = None
        if self.flow.read_paused:  # it is the application that does not read
            self._allow(seconds)
        else:
            self.transport.abort()


def _addresses(transport: asyncio.Transport) -> tuple[Address, Address]:
    """Ours and the client's; none for what is no network."""
    connection = socket.socket(fileno=transport.get_extra_info("socket").fileno())
    try:
        ours, theirs = connection.getsockname(), connection.getpeername()
    except OSError:  # it has left already
        return None, None
    finally:
        connection.detach()
    if not (isinstance(ours, tuple) and isinstance(theirs, tuple)):
        return None, None
    return ours[:2], theirs[:2]


def _response(error: HeadwayError) -> bytes:
    body = encode(problem(error))
    lines = [
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
        "content-type: application/problem+json",
        f"content-length: {len(body)}",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "connection: close",
    ]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode() + body
