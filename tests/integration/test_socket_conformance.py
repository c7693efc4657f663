"""WebSockets as RFC 6455 has them: what a strict test suite would try, as a table of what is sent and what comes."""

import json
import struct
from contextlib import suppress
from itertools import pairwise
from random import Random

import pytest

from shared.web.sockets import FRAMES_AT_ONCE, LONGEST_MESSAGE
from tests.support.websockets import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    RawSocket,
    close_frame,
    frame,
)


def echo(topic: str) -> bytes:
    """A message that is answered by an error, which repeats the topic."""
    return json.dumps({"type": "subscribe", "topic": topic}, ensure_ascii=False).encode()


def padded(size: int) -> bytes:
    """Such a message of so many bytes."""
    return echo("x" * (size - len(echo(""))))


HELLO = echo("hello")
SIGNS = echo("κόσμε-µ@ß-öäüàá-💡")

# Each step is something sent, or what comes then: TEXT a message that repeats the topic, PONG a payload, CLOSE a code.
Sent = bytes
Comes = tuple[int, bytes | int | None]


def told(message: bytes) -> Comes:
    return TEXT, message


def pong(payload: bytes = b"") -> Comes:
    return PONG, payload


def closed(code: int | None) -> Comes:
    return CLOSE, code


def fragments(message: bytes, *places: int) -> list[bytes]:
    """The same message, cut at these places."""
    cuts = [0, *places, len(message)]
    parts = [message[start:end] for start, end in pairwise(cuts)]
    last = len(parts) - 1
    return [frame(CONT if number else TEXT, part, fin=number == last) for number, part in enumerate(parts)]


def _split(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


GOODBYE: list[Sent | Comes] = [close_frame(), closed(1000)]
MIDDLE = SIGNS.index("µ@".encode()) + 1
"""Within a character."""

CASES: dict[str, list[Sent | Comes]] = {
    # -- payload lengths
    "an empty message is a message, though not JSON": [frame(TEXT), (TEXT, None), *GOODBYE],
    **{
        f"a message of {size} bytes": [frame(TEXT, padded(size)), told(padded(size)), *GOODBYE]
        for size in (125, 126, 127, 128, 4096, LONGEST_MESSAGE)
    },
    "a message that is too long": [frame(TEXT, padded(LONGEST_MESSAGE + 1)), closed(1009)],
    "a message of 65,535 bytes": [frame(TEXT, padded(65_535)), closed(1009)],
    "a message of 65,536 bytes": [frame(TEXT, padded(65_536)), closed(1009)],
    "a message that is announced to be endless": [frame(TEXT, b"x", length=2**63 - 1), closed(1009)],
    "a message that is too long in fragments": [
        frame(TEXT, b"x" * LONGEST_MESSAGE, fin=False),
        frame(CONT, b"x"),
        closed(1009),
    ],
    "a message in small pieces": [*_split(frame(TEXT, padded(200)), 7), told(padded(200)), *GOODBYE],
    "two messages in one piece": [frame(TEXT, HELLO) + frame(TEXT, SIGNS), told(HELLO), told(SIGNS), *GOODBYE],
    # -- binary
    "a binary message": [frame(BINARY, HELLO), closed(1003)],
    "an empty binary message": [frame(BINARY), closed(1003)],
    "a binary message in fragments": [frame(BINARY, b"a", fin=False), closed(1003)],
    "a binary message after a good one": [frame(TEXT, HELLO), told(HELLO), frame(BINARY, b"x"), closed(1003)],
    # -- pings and pongs
    "an empty ping": [frame(PING), pong(), *GOODBYE],
    "a ping with a payload": [frame(PING, b"hello"), pong(b"hello"), *GOODBYE],
    "a ping with a payload that is no text": [frame(PING, b"\x00\xff\xfe"), pong(b"\x00\xff\xfe"), *GOODBYE],
    "a ping of 125 bytes": [frame(PING, b"p" * 125), pong(b"p" * 125), *GOODBYE],
    "a ping of 126 bytes": [frame(PING, b"p" * 126), closed(1002)],
    "a ping byte by byte": [*_split(frame(PING, b"slow"), 1), pong(b"slow"), *GOODBYE],
    "an unsolicited pong": [frame(PONG, b"x"), frame(PING, b"y"), pong(b"y"), *GOODBYE],
    "ten pings at once": [
        b"".join(frame(PING, b"%d" % n) for n in range(10)),
        *[pong(b"%d" % n) for n in range(10)],
        *GOODBYE,
    ],
    # -- reserved bits and opcodes
    **{f"reserved bits {rsv}": [frame(TEXT, HELLO, rsv=rsv), closed(1002)] for rsv in range(1, 8)},
    "reserved bits in a ping": [frame(PING, b"x", rsv=1), closed(1002)],
    "reserved bits in a close": [frame(CLOSE, struct.pack("!H", 1000), rsv=4), closed(1002)],
    "reserved bits after a good message": [frame(TEXT, HELLO), told(HELLO), frame(TEXT, b"x", rsv=2), closed(1002)],
    **{f"opcode {opcode}": [frame(opcode, b"x"), closed(1002)] for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    # -- masks
    "no mask": [frame(TEXT, HELLO, masked=False), closed(1002)],
    "no mask on a ping": [frame(PING, masked=False), closed(1002)],
    "no mask on a close": [frame(CLOSE, struct.pack("!H", 1000), masked=False), closed(1002)],
    # -- fragments
    "a message in two fragments": [*fragments(HELLO, 5), told(HELLO), *GOODBYE],
    "a message in two fragments at once": [b"".join(fragments(HELLO, 5)), told(HELLO), *GOODBYE],
    "a message in fragments of one byte": [*fragments(HELLO, *range(1, len(HELLO))), told(HELLO), *GOODBYE],
    "empty fragments": [*fragments(HELLO, 0, 0, 5, 5, len(HELLO)), told(HELLO), *GOODBYE],
    "a ping between fragments": [
        *[step for part in fragments(HELLO, 5) for step in (frame(PING, b"!"), pong(b"!"), part)],
        told(HELLO),
        *GOODBYE,
    ],
    "a ping in fragments": [frame(PING, b"a", fin=False), closed(1002)],
    "a pong in fragments": [frame(PONG, b"a", fin=False), closed(1002)],
    "a close in fragments": [frame(CLOSE, struct.pack("!H", 1000), fin=False), closed(1002)],
    "a continuation of nothing": [frame(CONT, HELLO), closed(1002)],
    "a continuation of nothing, unfinished": [frame(CONT, HELLO, fin=False), closed(1002)],
    "a continuation of what was finished": [frame(TEXT, HELLO), told(HELLO), frame(CONT, b"x"), closed(1002)],
    "a message within a message": [frame(TEXT, b"a", fin=False), frame(TEXT, b"b"), closed(1002)],
    "a message within a message, later": [
        frame(TEXT, b"a", fin=False),
        frame(CONT, b"b", fin=False),
        frame(TEXT, b"c", fin=False),
        closed(1002),
    ],
    "a close within a message": [frame(TEXT, b"a", fin=False), close_frame(), closed(1002)],
    "too many frames": [frame(TEXT, b"[", fin=False) + frame(CONT, fin=False) * (FRAMES_AT_ONCE + 200), closed(1008)],
    "too many pings": [frame(PING) * (FRAMES_AT_ONCE + 200), closed(1008)],
    # -- UTF-8
    "every kind of character": [frame(TEXT, SIGNS), told(SIGNS), *GOODBYE],
    "a character across two fragments": [*fragments(SIGNS, MIDDLE), told(SIGNS), *GOODBYE],
    "characters byte by byte, in fragments": [*fragments(SIGNS, *range(1, len(SIGNS))), told(SIGNS), *GOODBYE],
    "bytes that are no UTF-8": [frame(TEXT, HELLO + b"\xce\xba\xed\xa0\x80edited"), closed(1007)],
    "a fragment that is no UTF-8": [frame(TEXT, b"\xff", fin=False), closed(1007)],
    "a second fragment that is no UTF-8": [frame(TEXT, HELLO, fin=False), frame(CONT, b"\xc0"), closed(1007)],
    "a character too many for Unicode": [frame(TEXT, b"\xf4\x90\x80\x80"), closed(1007)],
    "half of a pair": [frame(TEXT, b"\xed\xa0\x80"), closed(1007)],
    "a character written too long": [frame(TEXT, b"\xc0\xaf"), closed(1007)],
    "half a character at the end": [frame(TEXT, SIGNS[:MIDDLE]), closed(1007)],
    "half a character at the end of fragments": [*fragments(SIGNS[:MIDDLE], 4), closed(1007)],
    "the last character that there is": [frame(TEXT, echo("\U0010ffff")), told(echo("\U0010ffff")), *GOODBYE],
    "what is not a character, but can be written": [frame(TEXT, echo("\ufffe")), told(echo("\ufffe")), *GOODBYE],
    # -- closing
    "goodbye": GOODBYE,
    "goodbye without a code": [close_frame(None), closed(None)],
    "goodbye with a reason": [close_frame(1000, b"enough"), closed(1000)],
    "goodbye with the longest reason": [close_frame(1000, b"x" * 123), closed(1000)],
    "goodbye with a reason that is too long": [close_frame(1000, b"x" * 124), closed(1002)],
    "goodbye with a reason that is no UTF-8": [close_frame(1000, b"\xff"), closed(1007)],
    "half a code": [frame(CLOSE, b"\x03"), closed(1002)],
    **{
        f"code {code}": [close_frame(code), closed(code)]
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
    },
    **{
        f"code {code}, which nobody may send": [close_frame(code), closed(1002)]
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    },
    "nothing counts after goodbye": [close_frame() + frame(TEXT, HELLO) + frame(PING), closed(1000)],
    "a second goodbye": [close_frame() + close_frame(1001), closed(1000)],
    "what came before goodbye may be answered": [frame(PING, b"last") + close_frame(), pong(b"last"), closed(1000)],
}


@pytest.mark.parametrize("case", CASES)
def test_the_server_behaves_as_rfc_6455_has_it(server: tuple[str, str], case: str) -> None:
    with RawSocket(*server) as socket:
        for step in CASES[case]:
            if isinstance(step, bytes):
                socket.send(step)
                continue
            kind, expected = step
            if kind == CLOSE:
                assert socket.end(answer=False) == expected
                continue
            received = socket.receive()
            assert received.opcode == kind
            if kind == PONG:
                assert received.payload == expected
            else:
                said = json.loads(received.payload)
                assert said["type"] == "error"
                if isinstance(expected, bytes):
                    assert said["topic"] == json.loads(expected)["topic"]


def test_a_handshake_is_answered_as_rfc_6455_has_it_and_offers_nothing(server: tuple[str, str]) -> None:
    offers: dict[str, str | None] = {
        "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
        "Sec-WebSocket-Protocol": "chat, superchat",
    }
    with RawSocket(*server, headers=offers) as socket:
        assert socket.status == 101
        assert "sec-websocket-extensions" not in socket.headers
        assert "sec-websocket-protocol" not in socket.headers


@pytest.mark.parametrize(
    ("headers", "request_line", "status"),
    [
        ({"Sec-WebSocket-Version": "12"}, None, 400),
        ({"Sec-WebSocket-Version": "14"}, None, 400),
        ({"Sec-WebSocket-Version": None}, None, 400),
        ({"Sec-WebSocket-Key": None}, None, 400),
        ({"Sec-WebSocket-Key": ""}, None, 400),
        ({"Sec-WebSocket-Key": "dG9vIHNob3J0"}, None, 400),
        ({"Sec-WebSocket-Key": "this is not base64!!"}, None, 400),
        ({"Upgrade": None}, None, 400),
        ({"Upgrade": "h2c"}, None, 400),
        ({"Connection": "keep-alive"}, None, 400),
        ({}, "POST /api/ws HTTP/1.1", 405),
        ({}, "GET /api/ws HTTP/1.0", 400),
        ({}, "GET /api/nothing HTTP/1.1", 404),
        ({}, "GET /api/ws\xe9 HTTP/1.1", 400),
        ({"Host": None}, None, 400),
        ({"Connection": "keep-alive, Upgrade"}, None, 101),
        ({"Connection": "upgrade", "Upgrade": "WebSocket"}, None, 101),
        ({}, "GET /api/ws/ HTTP/1.1", 101),
    ],
)
def test_a_handshake_that_is_none_is_refused_in_words_of_http(
    server: tuple[str, str], headers: dict[str, str | None], request_line: str | None, status: int
) -> None:
    with RawSocket(*server, headers=headers, request=request_line) as socket:
        assert socket.status == status
        if status != 101:
            assert socket.headers["content-type"] == "application/problem+json"
            assert socket.body()["status"] == status
        if "Sec-WebSocket-Version" in headers:
            assert socket.headers["sec-websocket-version"] == "13", "which version would be right"


def test_a_message_may_come_byte_by_byte(server: tuple[str, str]) -> None:
    with RawSocket(*server) as socket:
        socket.send_slowly(frame(TEXT, SIGNS))
        assert socket.hear()["topic"] == json.loads(SIGNS)["topic"]


def test_noise_ends_a_connection_and_nothing_else(server: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
    chance = Random(6455)  # noqa: S311  # noise
    for _ in range(40):
        # it may be cut while we still send, or wait for the rest of what looks like a long message
        with suppress(ConnectionError, TimeoutError), RawSocket(*server, patience=0.5) as socket:
            for _ in range(20):
                first = frame(chance.choice((TEXT, CONT, PING, PONG)), HELLO[: chance.randrange(9)])
                socket.send(chance.choice((first, chance.randbytes(chance.randrange(1, 40)), frame(TEXT, HELLO)[:-1])))
            socket.send(close_frame())
            socket.end(answer=False)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    with RawSocket(*server) as socket:
        socket.send(frame(TEXT, HELLO))
        assert socket.hear()["topic"] == "hello"


def test_a_handshake_within_another_answer_is_not_taken(server: tuple[str, str]) -> None:
    """Two answers would end up in one another."""
    first = "GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\nGET /api/ws HTTP/1.1"
    with pytest.raises(ConnectionError), RawSocket(*server, request=first):
        pass
