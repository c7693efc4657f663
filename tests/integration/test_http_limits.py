"""What comes before a body has a size and a time limit: the real server, with an application that only echoes."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from shared.web import protocol
from shared.web.protocol import LONGEST_ADDRESS, LONGEST_HEADERS, MOST_HEADERS
from tests.support.web import live, served


class Echo:
    """Answers with the length of what it got. `/early` answers before the body is there."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        self.asked.append(scope["path"])
        size, more = 0, scope["path"] != "/early"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.asked.append("gone")
                return
            size, more = size + len(message["body"]), message["more_body"]
        body = str(size).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def address(echo: Echo) -> Iterator[tuple[str, int]]:
    with served(echo) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        yield host, int(port)


class Connection:
    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=10)
        self._file = self.socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self) -> tuple[int, dict[str, str], bytes]:
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        return status, headers, self._file.read(int(headers["content-length"]))

    def ended(self) -> bool:
        """Nothing more comes, by an orderly end or by a reset."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True


@pytest.fixture
def connection(address: tuple[str, int]) -> Iterator[Connection]:
    with closing(Connection(address)) as connection:
        yield connection


def assert_refused(connection: Connection, status: int, code: str) -> None:
    got, headers, body = connection.reply()
    said = json.loads(body)
    assert (got, said["status"], said["type"]) == (status, status, f"/problems/{code}")
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert connection.ended()


def padded(size: int) -> bytes:
    return b"GET /" + b"a" * (size - 1) + b" HTTP/1.1\r\nhost: x\r\n\r\n"


def test_an_address_may_be_so_long_and_no_longer(address: tuple[str, int], echo: Echo) -> None:
    with closing(Connection(address)) as good:
        good.send(padded(LONGEST_ADDRESS))
        assert good.reply()[0] == 200
    for excess in (1, 1000, 1_000_000):
        with closing(Connection(address)) as bad:
            bad.send(padded(LONGEST_ADDRESS + excess))
            assert_refused(bad, 414, "address_too_long")
    with closing(Connection(address)) as bad:
        bad.send(b"GET /?" + b"a" * LONGEST_ADDRESS)  # and it need not even end
        assert_refused(bad, 414, "address_too_long")
    assert len(echo.asked) == 1


HEADERS = [
    [b"a: " + b"b" * LONGEST_HEADERS],
    [b"a" * LONGEST_HEADERS + b": b"],
    [b"a: " + b"b" * 1000] * 40,
    [b"a%d: b" % number for number in range(MOST_HEADERS + 1)],
    [b"a: " + b"b" * 2_000_000],
]


@pytest.mark.parametrize("headers", HEADERS, ids=range(len(HEADERS)))
@pytest.mark.parametrize("ends", [True, False])
def test_headers_may_be_so_large_and_no_larger(
    connection: Connection, echo: Echo, headers: list[bytes], *, ends: bool
) -> None:
    connection.send(b"GET / HTTP/1.1\r\n" + b"\r\n".join(headers) + (b"\r\n\r\n" if ends else b"\r\nb"))
    assert_refused(connection, 431, "headers_too_large")
    assert echo.asked == []


def test_a_header_that_comes_in_pieces_counts_as_a_whole(connection: Connection) -> None:
    connection.send(b"GET / HTTP/1.1\r\na: ")
    for _ in range(100):  # and it is listened to beyond that: a reset would take the refusal along
        connection.send(b"b" * 1000)
        time.sleep(0.001)
    assert_refused(connection, 431, "headers_too_large")


def test_headers_within_the_limits_pass(connection: Connection) -> None:
    many = [b"host: x", *(b"a%d: b" % number for number in range(MOST_HEADERS - 1))]
    connection.send(b"GET / HTTP/1.1\r\n" + b"\r\n".join(many) + b"\r\n\r\n")
    assert connection.reply()[0] == 200
    # and what one request has used up is not missing to the next
    connection.send(b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * (LONGEST_HEADERS - 20) + b"\r\n\r\n")
    assert connection.reply()[0] == 200
    connection.send(b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * (LONGEST_HEADERS - 20) + b"\r\n\r\n")
    assert connection.reply()[0] == 200


HOSTS = [
    ([], 400),
    (["Host: x", "Host: x"], 400),
    (["Host: x", "host: y"], 400),
    (["Host: a b"], 400),
    (["Host: x, y"], 400),
    (["Host: x/y"], 400),
    (["Host: user@x"], 400),
    (["Host: b\xfccher"], 400),
    (["Host:"], 200),
    (["Host: x"], 200),
    (["hOST: a-b_c.example.org:8443"], 200),
    (["Host: 192.0.2.1:80"], 200),
    (["Host: [2001:db8::1]:80"], 200),
]


@pytest.mark.parametrize(("hosts", "status"), HOSTS)
def test_a_request_names_one_host(
    address: tuple[str, int], connection: Connection, echo: Echo, hosts: list[str], status: int
) -> None:
    lines = ["GET / HTTP/1.1", *hosts, "A: b", "", ""]
    connection.send("\r\n".join(lines).encode("latin-1"))
    if status == 200:
        assert connection.reply()[0] == 200
    else:
        assert_refused(connection, 400, "malformed")
        assert echo.asked == []
    with closing(Connection(address)) as old:
        old.send("\r\n".join(["GET / HTTP/1.0", *hosts, "", ""]).encode("latin-1"))
        assert old.reply()[0] == (status if hosts else 200), "HTTP/1.0 did not know it, but had no room for two either"


def test_each_request_of_a_connection_names_its_host(connection: Connection, echo: Echo) -> None:
    connection.send(b"GET /one HTTP/1.1\r\nhost: x\r\n\r\n")
    assert connection.reply()[0] == 200
    connection.send(b"POST /two HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc")
    assert_refused(connection, 400, "malformed")
    assert echo.asked == ["/one"]


NONSENSE = [b"hello\r\n\r\n", b"GET / HTTP/1.1\r\n b\r\n\r\n", b"\x16\x03\x01\x02", b"GET x HTTP/1.1\r\n\r\n"]


def test_what_is_no_http_is_a_problem_too(address: tuple[str, int]) -> None:
    for nonsense in NONSENSE:
        with closing(Connection(address)) as connection:
            connection.send(nonsense)
            assert_refused(connection, 400, "malformed")


def test_trailers_and_chunk_extensions_are_bounded_too(address: tuple[str, int], echo: Echo) -> None:
    begin = b"POST /late HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"
    for rest in (b"0\r\na: " + b"b" * 10**6, b"0\r\n" + b"a: b\r\n" * 10**5, b"3;" + b"x" * 10**6):
        with closing(Connection(address)) as connection:
            connection.send(begin + rest)
            assert_refused(connection, 431, "headers_too_large")
    with closing(Connection(address)) as connection:
        connection.send(begin + b"0\r\na: b\r\n\r\n")
        assert connection.reply()[2] == b"3"


def test_a_large_body_is_none_of_its_business(connection: Connection) -> None:
    body = b"x" * 5_000_000
    connection.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    assert connection.reply()[2] == b"5000000"
    connection.send(
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n4c4b40\r\n" + body + b"\r\n0\r\n\r\n"
    )
    assert connection.reply()[2] == b"5000000"


def test_a_refusal_does_not_end_up_in_an_earlier_reply(connection: Connection) -> None:
    connection.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc" + padded(LONGEST_ADDRESS * 2))
    try:
        received = connection._file.read()
    except ConnectionResetError:
        received = b""
    assert received.count(b"HTTP/1.1 ") <= 1


@pytest.mark.parametrize("start", [b"", b"GET /", b"GET / HTTP/1.1\r\na: b\r\n"])
def test_a_head_that_never_ends_is_cut_off(
    address: tuple[str, int], echo: Echo, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    with closing(Connection(address)) as connection:
        begun = time.monotonic()
        connection.send(start)
        try:
            while time.monotonic() < begun + 5:
                connection.socket.settimeout(0.1)
                try:
                    assert connection.socket.recv(1) == b""
                    break
                except TimeoutError:
                    connection.send(b"x" if start else b"\r\n")  # a byte now and then does not help
        except ConnectionError:
            pass
        assert 0.4 <= time.monotonic() - begun < 4
    assert echo.asked == []


def test_a_head_after_another_request_has_its_own_time(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 1.0)
    with closing(Connection(address)) as connection:
        for _ in range(4):
            connection.send(b"GET / HTTP/1.1\r\nhost: x\r\n")
            time.sleep(0.4)
            connection.send(b"\r\n")
            assert connection.reply()[0] == 200
        connection.send(b"\r\n")  # a new head that does not even begin
        assert connection.ended()


def test_a_body_that_never_comes_is_cut_off(
    address: tuple[str, int], echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.5)
    with closing(Connection(address)) as connection:
        connection.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n")
        for _ in range(4):
            time.sleep(0.25)
            connection.send(b"x")  # slow is not silent
        assert connection.ended()
    deadline = time.monotonic() + 10
    while echo.asked != ["/", "gone"]:
        assert time.monotonic() < deadline, "the application is told"
        time.sleep(0.02)


def test_a_body_after_its_answer_does_not_go_on_for_ever(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.5)
    with closing(Connection(address)) as connection:
        connection.send(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        assert connection.reply()[0] == 200
        begun = time.monotonic()
        assert _cut(connection, begun + 8)


def _cut(connection: Connection, until: float) -> bool:
    while time.monotonic() < until:
        try:
            connection.send(b"x")
        except ConnectionError:
            return True
        time.sleep(0.05)
    return False
