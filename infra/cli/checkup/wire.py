"""Requests byte by byte, for what an HTTP library hides: certificates, protocols, answers before a body is sent."""

import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

PATIENCE = 10.0
"""Seconds for an answer."""
_MOST = 64 * 1024
"""Bytes of an answer that are looked at."""


class Answer(Struct, frozen=True):
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    """As it came over the wire; the beginning of one that is long."""


class Place(Struct, frozen=True):
    """Where something answers."""

    secure: bool
    host: str
    port: int
    authority: str
    """As it stands in `Host`."""

    @staticmethod
    def of(address: str) -> "Place":
        parts = urllib.parse.urlsplit(address)
        secure = parts.scheme == "https"
        return Place(secure, parts.hostname or "", parts.port or (443 if secure else 80), parts.netloc)


@contextmanager
def connected(place: Place, trust: ssl.SSLContext | None) -> Iterator[socket.socket]:
    """Raises OSError, of which ssl.SSLError is one, but no BrokenPipeError: that is of our own output."""
    try:
        with socket.create_connection((place.host, place.port), PATIENCE) as plain:
            if not place.secure or trust is None:
                yield plain
                return
            with trust.wrap_socket(plain, server_hostname=place.host) as wrapped:
                yield wrapped
    except BrokenPipeError:
        raise ConnectionResetError("the connection was cut") from None


def ask(
    place: Place,
    trust: ssl.SSLContext | None,
    method: str,
    path: str,
    headers: Mapping[str, str] = MappingProxyType({}),
    *,
    seconds: float = PATIENCE,
) -> Answer | None:
    """The answer, as much of it as comes in so many seconds; None if that is not even its head. Raises OSError."""
    given = {"Host": place.authority, "User-Agent": "headway-doctor", "Connection": "close"} | dict(headers)
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
    until = time.monotonic() + seconds
    with connected(place, trust) as connection:
        connection.sendall("\r\n".join(lines).encode())
        received = b""
        while b"\r\n\r\n" not in received and len(received) < _MOST:
            data = _more(connection, until)
            if not data:
                return None
            received += data
        head, _, body = received.partition(b"\r\n\r\n")
        answer = _read(head)
        if answer is None or answer.status == HTTPStatus.SWITCHING_PROTOCOLS:
            return answer
        length = answer.headers.get("content-length", "")
        wanted = min(int(length), _MOST) if length.isdecimal() else _MOST
        while len(body) < wanted and (data := _more(connection, until)):
            body += data
    return replace(answer, body=body)


def _more(connection: socket.socket, until: float) -> bytes:
    """Empty at the end, and when the time is over."""
    connection.settimeout(max(0.01, until - time.monotonic()))
    try:
        return connection.recv(_MOST)
    except TimeoutError:
        return b""


def _read(head: bytes) -> Answer | None:
    """None if that is not HTTP."""
    first, *fields = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[1].isdecimal():  # noqa: PLR2004  # the version and the status
        return None
    found = {name.strip().lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    return Answer(int(words[1]), found, b"")
