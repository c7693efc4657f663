"""What clients may do on the connection of a stream that no browser does, whichever way the bytes travel."""

import os
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER, wait_for
from tests.support.sse import Event, Parser, Stream
from tests.support.tls import connect
from tests.support.ways import WAYS, Way
from tests.support.writer import Writer

MEGABYTE = 2**20


class Client:
    """A connection on which anything may be said, and what came on it."""

    def __init__(self, address: str, receive_buffer: int | None = None) -> None:
        self.socket = connect(address, receive_buffer)
        self.raw = b""
        """Not read yet."""

    def say(self, *lines: str, body: bytes = b"") -> None:
        self.socket.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode() + body)

    def head(self) -> tuple[str, dict[str, str]]:
        """The status line, and the headers by their names in lower case."""
        while b"\r\n\r\n" not in self.raw:
            self.receive()
        head, _, self.raw = self.raw.partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        return line, {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}

    def body(self, headers: dict[str, str]) -> bytes:
        """Of an announced length."""
        length = int(headers["content-length"])
        while len(self.raw) < length:
            self.receive()
        body, self.raw = self.raw[:length], self.raw[length:]
        return body

    def events(self, headers: dict[str, str], count: int) -> list[Event]:
        """The first ones of a stream."""
        until = time.monotonic() + 20
        while len(events := self._parsed(headers)) < count:
            assert time.monotonic() < until, f"{len(events)} events came"
            self.receive()
        return events

    def rest(self, headers: dict[str, str]) -> list[Event]:
        """All events of a stream, to the end of the connection."""
        with suppress(ConnectionError):
            while True:
                self.receive()
        return self._parsed(headers, whole=True)

    def ended(self, seconds: float = 10) -> bool:
        """Whether the connection ends within that time, whatever comes before."""
        self.socket.settimeout(seconds)
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                self.receive()
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return False

    def receive(self, most: int = MEGABYTE) -> None:
        data = self.socket.recv(most)
        if not data:
            raise ConnectionResetError("the end")
        self.raw += data

    def _parsed(self, headers: dict[str, str], *, whole: bool = False) -> list[Event]:
        parser = Parser()
        events = list(parser.feed(self._unchunked(headers)))
        assert not whole or not parser.rest
        return [event for event in events if event.name != "ping"]

    def _unchunked(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self.raw
        body, rest = b"", self.raw
        while b"\r\n" in rest:
            size_text, _, rest = rest.partition(b"\r\n")
            size = int(size_text, 16)
            body += rest[:size]
            rest = rest[size + 2 :]
        return body


class Place:
    """A stream service with one batch of three jobs."""

    def __init__(self, app: Any, address: str, writer: Writer, token: str) -> None:
        self.app = app
        self.address = address
        self.writer = writer
        self.target = f"/api/batches/{writer.batch_id}/stream"
        self.headers = ["Host: here", f"Authorization: Bearer {token}"]
        self._token = token
        self._clients: list[Client] = []

    def client(self, **options: Any) -> Client:
        self._clients.append(Client(self.address, **options))
        return self._clients[-1]

    def ask(
        self, *headers: str, method: str = "GET", version: str = "1.1", more: bytes = b"", **options: Any
    ) -> Client:
        """Somebody who asks for the stream, and says more behind it."""
        client = self.client(**options)
        client.say(f"{method} {self.target} HTTP/{version}", *self.headers, *headers, body=more)
        return client

    @property
    def viewers(self) -> int:
        return self.app.state.hub.present

    def empty(self) -> bool:
        """Everybody is gone, which is waited for."""
        return bool(wait_for(lambda: not self.viewers, "all viewers to be gone"))

    def still_works(self) -> bool:
        with Stream(self.address, self.writer.batch_id, self._token) as stream:
            stream.delta()
            version = self.writer.progress(0, 1, lines=1)
            stream.to_version(version)
        return True

    def close(self) -> None:
        for client in self._clients:
            client.socket.close()


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    way: Way = request.param
    return way


@pytest.fixture
def place(settings: Settings, engine: sa.Engine, way: Way) -> Iterator[Place]:
    # where another server reads no further once something is asked behind the stream, a heartbeat finds who has gone
    settings = replace(settings, window=0, heartbeat=60 if way.hands_over else 3)
    writer = Writer(engine, settings, jobs=3)
    writer.start(0)
    with way.served(settings) as (address, app):
        place = Place(app, address, writer, issue_token(settings, OWNER))
        yield place
        place.close()
    writer.close()


def is_stream(client: Client) -> dict[str, str]:
    """The headers."""
    line, headers = client.head()
    assert line == "HTTP/1.1 200 OK"
    assert headers["content-type"] == "text/event-stream"
    assert headers["connection"] == "close"
    return headers


# -- how it is asked for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS[:1], ids=str, indirect=False)
def test_a_client_of_http_1_0_gets_events_and_no_chunks(place: Place) -> None:
    """So does a proxy that speaks no more than that to those behind it."""
    for connection in ([], ["Connection: keep-alive"]):
        client = place.ask(*connection, version="1.0")
        headers = is_stream(client)
        assert "transfer-encoding" not in headers
        assert [event.name for event in client.events(headers, 1)] == ["progress"]
        version = place.writer.progress(0, 10)
        assert client.events(headers, 2)[-1].data["version"] == version
        client.socket.close()
        assert place.empty()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_refusal_has_a_length_that_everybody_can_read(place: Place, version: str) -> None:
    place.app.state.hub.draining = True
    client = place.ask(version=version)
    headers = is_stream(client)
    assert "transfer-encoding" not in headers
    (error,) = client.rest(headers)
    assert (error.data["code"], len(client.raw)) == ("draining", int(headers["content-length"]))


def test_head_gets_headers_and_no_viewer(place: Place) -> None:
    for version in ("1.0", "1.1"):
        client = place.ask(method="HEAD", version=version)
        line, headers = client.head()
        assert (line, headers["content-type"]) == ("HTTP/1.1 200 OK", "text/event-stream")
        assert client.ended()
        assert client.raw == b""
    assert place.viewers == 0


def test_other_requests_may_come_before_it_on_the_same_connection(place: Place) -> None:
    client = place.client()
    for _ in range(3):
        client.say("GET /health/live HTTP/1.1", *place.headers)
        line, headers = client.head()
        assert (line, client.body(headers)) == ("HTTP/1.1 200 OK", b'{"status":"live"}')
    client.say(f"GET {place.target} HTTP/1.1", *place.headers)
    headers = is_stream(client)
    client.events(headers, 1)
    place.writer.progress(0, 10)
    assert len(client.events(headers, 2)) == 2


def test_they_may_even_be_asked_for_at_once(place: Place) -> None:
    client = place.client()
    ask = "\r\n".join([f"GET {place.target} HTTP/1.1", *place.headers, "", ""])
    client.say("GET /health/live HTTP/1.1", *place.headers, body=ask.encode())
    _, headers = client.head()
    client.body(headers)
    assert len(client.events(is_stream(client), 1)) == 1


@pytest.mark.parametrize("together", [True, False])
def test_what_is_asked_behind_it_is_never_answered(place: Place, *, together: bool) -> None:
    behind = "\r\n".join(["GET /health/live HTTP/1.1", *place.headers, "", ""]).encode() * 3
    client = place.ask(more=behind if together else b"")
    headers = is_stream(client)
    client.events(headers, 1)
    if not together:
        client.socket.sendall(behind)
    place.writer.progress(0, 10, lines=2)
    assert [event.name for event in client.events(headers, 3)] == ["progress", "log", "progress"]
    for position in range(3):
        if position:
            place.writer.start(position)
        place.writer.finish(position)
    assert client.rest(headers)[-1].name == "complete"
    assert b"HTTP/1.1" not in client.raw
    assert b"live" not in client.raw
    assert place.empty()


BODIES: list[tuple[list[str], bytes]] = [
    (["Content-Length: 5"], b"hello"),
    (["Content-Length: 0"], b""),
    (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n"),
    (["Content-Length: 5", "Expect: 100-continue"], b"hello"),
    (["Content-Length: 1000000"], b"x" * 1_000_000),
    (["Content-Length: 1000000"], b"x"),  # and never more
    (["Transfer-Encoding: chunked"], b"5\r\nhel"),
    (["Content-Length: 5", "Expect: 100-continue"], b""),
]


@pytest.mark.parametrize(("headers", "body"), BODIES, ids=range(len(BODIES)))
def test_a_body_is_not_asked_for_and_not_waited_for(place: Place, headers: list[str], body: bytes) -> None:
    client = place.ask(*headers, more=body)
    headers_of_reply = is_stream(client)
    assert len(client.events(headers_of_reply, 1)) == 1
    version = place.writer.progress(0, 10)
    assert client.events(headers_of_reply, 2)[-1].data["version"] == version
    client.socket.close()
    assert place.empty()


# -- what is said while it runs ---------------------------------------------------------------------------------------


def resident() -> int:
    """Bytes of this process, in which the service runs."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_what_a_client_goes_on_to_say_is_thrown_away(place: Place) -> None:
    client = place.ask()
    headers = is_stream(client)
    client.events(headers, 1)
    before = resident()
    sent = 0
    client.socket.settimeout(0.5)
    chunk = b"GET / HTTP/1.1\r\n" + b"x" * (MEGABYTE // 4)
    try:
        while sent < 100 * MEGABYTE:
            sent += client.socket.send(chunk)
    except TimeoutError:
        pass  # it is not read: that is well, too
    except (ConnectionError, ssl.SSLEOFError):
        assert place.empty()
        return
    assert resident() - before < 30 * MEGABYTE
    client.socket.settimeout(10)
    place.writer.progress(0, 10)
    assert len(client.events(headers, 2)) == 2
    client.socket.close()
    assert place.empty()


# -- how it ends ------------------------------------------------------------------------------------------------------


def test_who_can_say_nothing_any_more_is_gone(place: Place) -> None:
    client = place.ask()
    client.events(is_stream(client), 1)
    client.socket.shutdown(socket.SHUT_WR)
    assert client.ended()
    assert place.empty()


def test_who_said_all_before_the_answer_is_gone(place: Place) -> None:
    client = place.ask()
    client.socket.shutdown(socket.SHUT_WR)
    assert client.ended()
    assert place.empty()


def test_a_reset_in_the_middle_of_an_event_is_nobody_elses_matter(place: Place) -> None:
    other = place.ask()
    other_headers = is_stream(other)
    other.events(other_headers, 1)
    for when in range(4):
        client = place.ask(receive_buffer=4096)
        is_stream(client)
        for percent in range(when * 5):
            place.writer.progress(0, percent, lines=10, text="x" * 2000)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()
        place.writer.progress(0, 90 + when)
    wait_for(lambda: place.viewers == 1, "those who reset to be gone")
    version = place.writer.progress(0, 95)
    wait_for(lambda: other.events(other_headers, 1)[-1].data.get("version") == version or other.receive(), "the other")


def test_a_reader_with_a_tiny_window_gets_all_of_it_in_the_end(place: Place) -> None:
    client = place.ask(receive_buffer=2048)
    headers = is_stream(client)
    for percent in range(60):
        place.writer.progress(0, percent, lines=10, text="y" * 4000)
    for position in range(3):
        if position:
            place.writer.start(position)
        place.writer.finish(position)
    with suppress(ConnectionError):
        while True:
            client.receive(1500)
    assert client.rest(headers)[-1].name == "complete"
    assert place.empty()


def test_many_come_and_go_in_every_way_and_nothing_is_left(place: Place) -> None:
    for number in range(60):
        client = place.ask(more=b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" if number % 2 else b"")
        if number % 3:
            client.events(is_stream(client), 1)
        if number % 4 == 0:
            client.socket.shutdown(socket.SHUT_WR)
        elif number % 4 == 1:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.socket.close()
        elif number % 4 == 2:
            client.socket.close()
        if number % 10 == 0:
            place.writer.progress(0, number)
    place.close()
    assert place.empty()
    assert place.still_works()
