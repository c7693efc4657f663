"""What may be sent over a WebSocket, and what is not taken for long: on one server, as no batch matters."""

import json
from typing import Any

import pytest

from services.stream import session as sessions
from services.stream import websocket
from shared.web.sockets import LONGEST_MESSAGE
from tests.support.websockets import PING, PONG, TEXT, RawSocket, frame


@pytest.fixture
def address(server: tuple[str, str]) -> str:
    return server[0]


@pytest.fixture
def token(server: tuple[str, str]) -> str:
    return server[1]


@pytest.mark.parametrize(
    "first",
    [
        {"type": "auth", "token": "wrong"},
        {"type": "auth"},
        {"type": "auth", "token": "wrong", "more": 1},
        {"type": "subscribe", "topic": "batches"},
        ["auth"],
        "auth",
    ],
)
def test_another_first_message_ends_it(address: str, first: Any) -> None:
    with RawSocket(address) as socket:
        socket.send(frame(TEXT, json.dumps(first).encode()))
        said = socket.hear()
        assert (said["type"], said["topic"], said["code"]) == ("error", None, "unauthenticated")
        assert socket.end() == 4401


def test_a_token_that_does_not_come_ends_it(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "AUTH_SECONDS", 1.5)
    with RawSocket(address) as socket:
        socket.send(frame(PING, b"I am still here"))
        assert socket.receive().opcode == PONG
        assert socket.hear()["code"] == "unauthenticated"
        assert socket.end() == 4401


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        (b"", "malformed", "JSON"),
        (b"{", "malformed", "JSON"),
        (b"[]", "malformed", "object"),
        (b"null", "malformed", "object"),
        (b"[" * 8000, "malformed", "JSON"),
        (b"{}", "invalid", "type: expected one of auth, subscribe, unsubscribe"),
        (b'{"type": "publish"}', "invalid", "type: "),
        (b'{"type": 1}', "invalid", "type: "),
        (b'{"type": ["subscribe"], "topic": "batches"}', "invalid", "type: "),
        (b'{"type": "subscribe"}', "invalid", "topic: is missing"),
        (b'{"type": "subscribe", "topic": 1}', "invalid", "topic: "),
        (b'{"type": "subscribe", "topic": "batches", "surprise": 1}', "invalid", "surprise: is not known here"),
        (b'{"type": "subscribe", "topic": null, "since": 1}', "invalid", "since: "),
        (b'{"type": "unsubscribe", "topic": "batches", "since": ""}', "invalid", "since: is not known here"),
        (b'{"type": "subscribe", "topic": ""}', "invalid", "topic: "),
        (b'{"type": "subscribe", "topic": "batch:"}', "invalid", "topic: "),
        (b'{"type": "subscribe", "topic": "batch:1"}', "invalid", "topic: "),
        (b'{"type": "subscribe", "topic": "batch:01890A5D-AC96-774B-BCCE-B302099A8057"}', "invalid", "topic: "),
        (b'{"type": "subscribe", "topic": "thing:01890a5d-ac96-774b-bcce-b302099a8057"}', "invalid", "topic: "),
        (b'{"type": "subscribe", "topic": "batches:01890a5d-ac96-774b-bcce-b302099a8057"}', "invalid", "topic: "),
        (b'{"type": "subscribe", "topic": "a\\u0000b"}', "invalid", "topic: "),
        (b'{"type": "auth", "token": "x"}', "conflict", "authenticated"),
    ],
)
def test_a_message_that_makes_no_sense_is_answered_and_the_connection_stays(
    address: str, token: str, text: bytes, code: str, named: str
) -> None:
    with RawSocket(address, token) as socket:
        socket.send(frame(TEXT, text))
        said = socket.hear()
        assert said.keys() == {"type", "topic", "code", "message"}
        assert (said["type"], said["code"]) == ("error", code)
        assert named in said["message"]
        socket.send(frame(PING, b"?"))
        assert socket.receive().payload == b"?"


def test_who_makes_no_sense_for_too_long_is_sent_away(address: str, token: str) -> None:
    with RawSocket(address, token) as socket:
        for _ in range(sessions.MISTAKES_MAX):
            socket.say(type="nonsense")
            assert socket.hear()["code"] == "invalid"
        socket.say(type="nonsense")
        assert socket.hear()["code"] == "invalid"
        assert socket.end() == 1008


def test_who_sends_too_much_is_sent_away(address: str, token: str) -> None:
    with RawSocket(address, token) as socket:
        unsubscribe = frame(TEXT, b'{"type": "unsubscribe", "topic": "batches"}')
        socket.send(unsubscribe * (sessions.MESSAGES_AT_ONCE + 30))
        said = socket.hear()
        assert (said["topic"], said["code"]) == (None, "too_many_messages")
        assert socket.end() == 4429


def test_the_longest_token_fits_into_a_message() -> None:
    assert 8 * 1024 + len('{"type": "auth", "token": ""}') < LONGEST_MESSAGE
