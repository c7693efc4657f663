"""WebSockets as uvicorn speaks them, with bounds for what a client can make us do or keep, and no waiting to write.

uvicorn's own answers pings without asking whether the client reads, keeps every fragment, takes in whatever a read
brings at once, and waits for ever for a client that does not read the end. It would also write tickets to its log.
"""

import asyncio
import codecs
import logging
from collections.abc import Callable
from http import HTTPStatus
from struct import pack
from typing import Any

from litestar.types import Scope
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from shared.errors import HeadwayError, Malformed, MethodNotAllowed, problem
from shared.events import encode

LONGEST_MESSAGE = 16 * 1024
"""Bytes of a message to us; the longest holds a token, which may have 8 KiB."""

FRAMES_PER_SECOND, FRAMES_AT_ONCE = 200, 1000
"""Of all kinds: pings, pongs and fragments are not seen by the application, but cost as much as a message."""

EXTENSION = "headway.socket"

_PORTION = 4 * 1024
"""Bytes taken in before anything else is looked at: of frames of six bytes a few milliseconds' work."""

_LINGER = 2.0
"""Seconds for the client to read why we end, and to answer; then the connection is cut."""

# It says by which address, ticket included, each connection came.
_quiet = logging.getLogger("uvicorn.error.websocket")
_quiet.setLevel(logging.ERROR)


def _nobody_waits() -> None:
    pass


class Socket(WebSocketsSansIOProtocol):
    """To the application it is also the extension `headway.socket`: `write` and `hang_up` do not wait.

    Text messages only.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.on_writable: Callable[[], None] = _nobody_waits
        self.logger = _quiet
        self.conn = _Conversation(max_size=LONGEST_MESSAGE, logger=_quiet)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text: list[str] = []
        self._pong = b""
        """To the last ping that came while the client did not read."""
        self._moved = False
        """Something was read by the client since our last ping."""
        self._failed = False
        self._allowance = float(FRAMES_AT_ONCE)
        self._counted = self.loop.time()
        self._cut: asyncio.TimerHandle | None = None

    # -- for the application ------------------------------------------------------------------------------------------

    @property
    def takes_more(self) -> bool:
        """The kernel took all that was written; when it has again, `on_writable` says so."""
        return self.writable.is_set() and not self.ended

    @property
    def ended(self) -> bool:
        """Nothing can be said any more."""
        return self.close_sent or self.disconnected or self.transport.is_closing()

    def write(self, text: bytes) -> None:
        """One message; UTF-8."""
        if not self.ended:
            self.transport.write(text_frame(text))  # what `conn.send_text` would say, at a fifth of the cost

    def hang_up(self, code: int, reason: str) -> None:
        """Close, after what has been written. The application receives `websocket.disconnect`."""
        if self.ended:
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self._flush()
        self.close_sent = True
        self._read_on()
        self.close_timer = self.loop.call_later(_LINGER, self.transport.abort)

    def cut(self) -> None:
        """At once, whatever was still to be said."""
        self.transport.abort()

    # -- for the transport --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # what a slow client does not take is not to be kept here: one message at most. Not 0, at which TLS in uvloop
        # stops the writing also when nothing waits
        self.transport.set_write_buffer_limits(high=1, low=0)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._cut is not None:
            self._cut.cancel()

    def resume_writing(self) -> None:
        self._moved = True
        super().resume_writing()
        if self._pong and not self.ended:
            pong, self._pong = self._pong, b""
            self.transport.write(pong)
        if self.takes_more:
            self.on_writable()

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), _PORTION):
            if self._failed:
                return
            self.conn.receive_data(data[start : start + _PORTION])
            if not self._afford(len(self.conn.events)):
                self.conn.events.clear()
                self._fail(CloseCode.POLICY_VIOLATION, "too many frames")
                return
            self.handle_events()  # what came before a mistake counts
            if self.conn.parser_exc is not None and not self._failed:
                self.handle_parser_exception()

    # -- what came ----------------------------------------------------------------------------------------------------

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[EXTENSION] = self

    def handle_text(self, event: Frame) -> None:
        self._decoder.reset()
        self._text = []
        self.handle_cont(event)

    def handle_cont(self, event: Frame) -> None:
        if self._failed:
            return
        try:
            if text := self._decoder.decode(event.data, event.fin):
                self._text.append(text)
        except UnicodeDecodeError:
            self._fail(CloseCode.INVALID_DATA, "this is not UTF-8")
            return
        if event.fin:
            text, self._text = "".join(self._text), []
            if not self.close_sent:
                self.queue.put_nowait({"type": "websocket.receive", "text": text})
                if not self.read_paused:
                    self.read_paused = True
                    self.transport.pause_reading()

    def handle_bytes(self, event: Frame) -> None:  # noqa: ARG002  # uvicorn's signature
        self._fail(CloseCode.UNSUPPORTED_DATA, "text messages only")

    def handle_ping(self) -> None:
        pongs = self.conn.data_to_send()  # to this ping, and to those that came along
        if self.writable.is_set():
            self.transport.write(b"".join(pongs))
        elif pongs:
            self._pong = pongs[-1]  # only the last one needs an answer (RFC 6455, 5.5.3)

    def send_keepalive_ping(self) -> None:
        self._moved = False
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        self.pong_timer = None
        if self.ended:
            return
        if self._moved and self.ping_timeout is not None:
            # our ping stands behind what a slow client is still reading
            self._moved = False
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
            return
        self._fail(CloseCode.INTERNAL_ERROR, "a ping was not answered")

    def handle_parser_exception(self) -> None:
        """The conversation has failed. What the client still sends is read, or it would not get to read why."""
        self._failed = True
        self.stop_keepalive()
        close = self.conn.close_sent
        if not self.close_sent and close is not None:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": close.code, "reason": close.reason})
        self._flush()
        self.close_sent = True
        self._read_on()
        if self.close_timer is None:
            self.close_timer = self.loop.call_later(_LINGER, self.transport.abort)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True  # or uvicorn would complain that there was none
        elif message["type"] == "websocket.accept":
            del self.request, self.response  # a fifth of what a connection keeps

    def shutdown(self) -> None:
        super().shutdown()
        self._cut_later()

    async def run_asgi(self) -> None:
        await super().run_asgi()
        if not self.disconnected:
            self._cut_later()

    def _flush(self) -> None:
        for data in self.conn.data_to_send():
            if data:
                self.transport.write(data)
            elif self.transport.can_write_eof():
                self.transport.write_eof()

    def _fail(self, code: CloseCode, reason: str) -> None:
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def _read_on(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def _cut_later(self) -> None:
        if self._cut is None:
            self._cut = self.loop.call_later(_LINGER, self.transport.abort)

    def _afford(self, frames: int) -> bool:
        now = self.loop.time()
        earned = self._allowance + (now - self._counted) * FRAMES_PER_SECOND
        self._allowance = min(earned, float(FRAMES_AT_ONCE)) - frames
        self._counted = now
        return self._allowance >= 0


class _Conversation(ServerProtocol):
    """Refuses handshakes in the form of all our errors."""

    def reject(self, status: HTTPStatus | int, text: str) -> Response:  # noqa: ARG002  # not the library's words
        error: HeadwayError = HeadwayError()
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            error = MethodNotAllowed()
        elif status < HTTPStatus.INTERNAL_SERVER_ERROR:
            error = Malformed("this is not the handshake of a WebSocket as RFC 6455 has it")
        body = encode(problem(error))
        headers = Headers(
            {
                "Content-Type": "application/problem+json",
                "Content-Length": str(len(body)),
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "Connection": "close",
                "Sec-WebSocket-Version": "13",
            }
        )
        return Response(error.status, HTTPStatus(error.status).phrase, headers, body)


def text_frame(text: bytes) -> bytes:
    """A whole message in one frame, as a server sends it (RFC 6455, 5.2)."""
    size = len(text)
    if size <= 125:  # noqa: PLR2004  # 126 and 127 say that the length follows, in two bytes or in eight
        return pack("!BB", 0x81, size) + text
    if size < 2**16:
        return pack("!BBH", 0x81, 126, size) + text
    return pack("!BBQ", 0x81, 127, size) + text


def offered(scope: Scope) -> Socket | None:
    """What the server offers beyond ASGI, if it is ours."""
    found: Socket | None = (scope.get("extensions") or {}).get(EXTENSION)  # type: ignore[assignment]
    return found
