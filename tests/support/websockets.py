"""WebSockets from the other end: byte by byte, and a reader of our topics that forgives nothing."""

import base64
import hashlib
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

from services.stream.app import create_app
from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER
from tests.support.sse import JSON, Event, Record
from tests.support.tls import connect
from tests.support.web import served

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

_PATIENCE = 45.0
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Frame(NamedTuple):
    opcode: int
    payload: bytes


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True, length: int | None = None
) -> bytes:
    """As a client sends it. `length`: what it says, if that is not so."""
    said = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    mark = 0x80 if masked else 0
    if said < 126:
        head += bytes([mark | said])
    elif said < 2**16:
        head += bytes([mark | 126]) + struct.pack("!H", said)
    else:
        head += bytes([mark | 127]) + struct.pack("!Q", said)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


def close_frame(code: int | None = 1000, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


@contextmanager
def lone_server(
    clone: Callable[..., AbstractContextManager[str]], redis_url: str, uploads: Path
) -> Iterator[tuple[str, str]]:
    """A stream service for many tests that need no batches: its address, and a token."""
    with clone() as database_url:
        settings = Settings(
            database_url=database_url,
            redis_url=redis_url,
            namespace=f"lone{os.getpid()}:",
            secret="a secret for tests, of 32 bytes or more",  # noqa: S106  # it protects nothing
            ticket_key="a ticket key for tests, of 32 bytes or more",
            uploads=uploads,
        )
        with served(create_app(settings)) as address:
            yield address, issue_token(settings, OWNER)


class RawSocket:
    """A connection that sends what it is told to. What the server sends must be as RFC 6455 has it."""

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        path: str = "/api/ws",
        query: dict[str, str] | None = None,
        headers: dict[str, str | None] | None = None,
        request: str | None = None,
        receive_buffer: int | None = None,
        patience: float = _PATIENCE,
    ) -> None:
        """`headers` replace those that belong there; None: left out. `request`: the first line."""
        parts = urlsplit(address)
        self.patience = patience
        self._socket = connect(address, receive_buffer, patience)
        self._raw = b""
        key = base64.b64encode(os.urandom(16)).decode()
        sent: dict[str, str | None] = {
            "Host": parts.netloc,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
        }
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        sent |= headers or {}
        target = path + (f"?{urlencode(query)}" if query else "")
        lines = [request or f"GET {target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in sent.items() if value is not None]
        try:
            self._socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
            head = self._until(b"\r\n\r\n").decode().split("\r\n")
        except OSError:
            self._socket.close()
            raise
        self.status = int(head[0].split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        if self.status == 101:
            accept = base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()  # noqa: S324  # the RFC's
            assert self.headers["sec-websocket-accept"] == accept
            assert self.headers["upgrade"].lower() == "websocket"
            assert self.headers["connection"].lower() == "upgrade"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, *pieces: bytes) -> None:
        """Each on its own."""
        for piece in pieces:
            self._socket.sendall(piece)

    def send_slowly(self, data: bytes, pause: float = 0.002) -> None:
        """Byte by byte."""
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(data)):
            self._socket.sendall(data[place : place + 1])
            time.sleep(pause)

    def say(self, **command: Any) -> None:
        self.send(frame(TEXT, json.dumps(command).encode()))

    def receive(self) -> Frame:
        """The next frame. Raises ConnectionError at the end, TimeoutError when nothing comes."""
        first, second = self._exactly(2)
        assert first & 0x70 == 0, "reserved bits are set"
        assert first & 0x80, "the server never sends fragments"
        assert not second & 0x80, "a server does not mask"
        length = second & 0x7F
        if length == 126:
            length = struct.unpack("!H", self._exactly(2))[0]
            assert length > 125
        elif length == 127:
            length = struct.unpack("!Q", self._exactly(8))[0]
            assert length > 2**16 - 1
        opcode = first & 0x0F
        assert opcode in {TEXT, CLOSE, PING, PONG}
        payload = self._exactly(length)
        if opcode >= CLOSE:
            assert length <= 125
        else:
            payload.decode()
        return Frame(opcode, payload)

    def hear(self) -> JSON:
        """The next message; protocol pings are answered on the way."""
        while (received := self.receive()).opcode == PING:
            self.send(frame(PONG, received.payload))
        assert received.opcode == TEXT, received
        said: JSON = json.loads(received.payload)
        return said

    def end(self, *, answer: bool = True) -> int | None:
        """The code that the server closes with, and that it closes; what comes before is thrown away.

        `answer`: it is told goodbye, too, if it is the first to say so.
        """
        code = None
        closed = False
        try:
            while True:
                received = self.receive()
                assert not closed, "something came after the close"
                if received.opcode == CLOSE:
                    closed = True
                    assert len(received.payload) != 1
                    if received.payload:
                        code = struct.unpack("!H", received.payload[:2])[0]
                        received.payload[2:].decode()
                    if answer:
                        self.send(close_frame(code))
        except ConnectionResetError:
            raise
        except ConnectionError:
            return code

    def body(self) -> JSON:
        """Of a handshake that was refused."""
        length = int(self.headers["content-length"])
        while len(self._raw) < length:
            self._receive()
        said: JSON = json.loads(self._raw[:length])
        return said

    def _exactly(self, size: int) -> bytes:
        while len(self._raw) < size:
            self._receive()
        found, self._raw = self._raw[:size], self._raw[size:]
        return found

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._raw:
            self._receive()
        found, _, self._raw = self._raw.partition(mark)
        return found

    def _receive(self) -> None:
        data = self._socket.recv(256 * 1024)
        if not data:
            raise ConnectionError("the connection was closed")
        self._raw += data


class Reader:
    """Of topics: each has a Record, which sees to it that deliveries follow the rules of docs/protocol.md."""

    def __init__(self, socket: RawSocket, records: dict[str, Record] | None = None) -> None:
        """`records` go on where an earlier connection ended."""
        self.socket = socket
        self.records = records or {}
        self.errors: list[JSON] = []
        self.heard: list[JSON] = []
        self.refreshes: list[JSON] = []
        """Those that only told estimates anew."""

    def subscribe(self, *topics: str) -> None:
        for topic in topics:
            record = self.records.setdefault(topic, LogRecord() if topic.startswith("logs:") else Record())
            record.cut()
            since = {"since": record.id} if record.id else {}
            self.socket.say(type="subscribe", topic=topic, **since)

    def next(self) -> JSON:
        said = self.socket.hear()
        self.heard.append(said)
        if said["type"] == "error":
            assert said.keys() == {"type", "topic", "code", "message"}
            self.errors.append(said)
            return said
        assert said.keys() == {"type", "topic", "id", "data"}
        if said["topic"] is None:
            assert said["type"] in {"ping", "timeout"}
            assert said["id"] is None
        elif said["topic"] != "batches":
            record = self.records[said["topic"]]
            before = len(record.refreshes)
            record.take(Event(said["type"], said["data"], said["id"]))
            self.refreshes += [said] * (len(record.refreshes) - before)
        return said

    def until(self, wanted: Callable[[JSON], Any], seconds: float = _PATIENCE) -> list[JSON]:
        """What comes up to and with the first that is wanted."""
        deadline = time.monotonic() + seconds
        seen: list[JSON] = []
        while not seen or not wanted(seen[-1]):
            assert time.monotonic() < deadline, f"not within {seconds} s: {[said['type'] for said in seen]}"
            seen.append(self.next())
        return seen

    def catch_up(self) -> None:
        """Reads until every topic has an id."""
        while not all(record.id for record in self.records.values()):
            self.next()

    def delta(self, topic: str) -> list[JSON]:
        """What comes up to and with the next id of a topic, but for what only tells estimates anew."""
        seen = self.until(lambda said: said["topic"] == topic and said.get("id") is not None)
        return [said for said in seen if not any(said is refresh for refresh in self.refreshes)]

    def to_version(self, version: int, topics: Sequence[str] | None = None) -> None:
        while any(self.records[topic].version < version for topic in topics or self.records):
            self.next()

    def complete(self, topic: str) -> JSON:
        return self.until(lambda said: said["topic"] == topic and said["type"] == "complete")[-1]


class LogRecord(Record):
    """Of a topic in which the batch does not come: the last `log` of a delta has the id."""

    def take(self, event: Event) -> None:
        assert event.name in {"log", "complete", "reset"}
        if event.name == "log" and event.id is not None:
            version = self.version
            super().take(Event("log", event.data, None))
            self.id = event.id
            assert self.version > version, "ids strictly increase"
            self._settle()
        else:
            super().take(event)
