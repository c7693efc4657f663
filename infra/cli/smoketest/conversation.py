"""A WebSocket, as much of RFC 6455 as a check needs: text in both directions, pings answered, the close read."""

import base64
import json
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import httpcore

from infra.cli.api import Api
from infra.cli.smoketest.checks import Checks, Wrong, expect, same

_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_PATIENCE = 10.0
"""Seconds for one message."""
_NOBODYS = "00000000-0000-7000-8000-000000000000"

Json = dict[str, Any]


def check_conversation(checks: Checks, api: Api, batch: Json, jobs: dict[str, Json]) -> None:
    """Of a finished batch, whose jobs are known."""
    topic = f"batch:{batch['batchId']}"
    with checks.check("a WebSocket tells the batch, after a token in its first message"), _open(api) as socket:
        socket.say({"type": "auth", "token": _token(api)})
        socket.say({"type": "subscribe", "topic": topic})
        told: dict[str, Json] = {}
        while True:
            said = socket.hear()
            same(said.get("topic"), topic, "the topic")
            expect(said["type"] in {"progress", "complete"}, f"there is a {said['type']}: {said}")
            told |= {job["id"]: job for job in said["data"]["jobs"]}
            if said["type"] == "complete":
                break
            same(said["id"], None, "the id of what is not the last")
        expect(said["id"], "`complete` has no id")
        same(told, jobs, "the jobs")
        same(said["data"]["counts"], batch["counts"], "the counts")
    with checks.check("over it, a topic that is not there is refused and a wrong token ends it"):
        with _open(api) as socket:
            socket.say({"type": "auth", "token": _token(api)})
            socket.say({"type": "subscribe", "topic": f"batch:{_NOBODYS}"})
            said = socket.hear()
            same((said["type"], said["topic"], said["code"]), ("error", f"batch:{_NOBODYS}", "not_found"), "the answer")
        with _open(api) as socket:
            socket.say({"type": "auth", "token": "wrong"})
            same(socket.hear()["code"], "unauthenticated", "the code")
            same(socket.close_code(), 4401, "the close code")


class _Socket:
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._raw = b""

    def say(self, message: Json) -> None:
        self._send(_TEXT, json.dumps(message).encode())

    def hear(self) -> Json:
        """The next message."""
        until = time.monotonic() + _PATIENCE
        while True:
            opcode, payload = self._receive(until)
            if opcode == _TEXT:
                said = json.loads(payload)
                if said["type"] != "ping":
                    return dict(said)
            elif opcode == _PING:
                self._send(_PONG, payload)
            elif opcode == _CLOSE:
                raise Wrong(f"it was closed with {payload[:2].hex()}: {payload[2:].decode(errors='replace')}")

    def close_code(self) -> int:
        until = time.monotonic() + _PATIENCE
        while True:
            opcode, payload = self._receive(until)
            if opcode == _CLOSE:
                return int(struct.unpack("!H", payload[:2])[0])

    def _send(self, opcode: int, payload: bytes) -> None:
        long = len(payload) > 125  # noqa: PLR2004  # the most that one byte can say
        size = bytes([0x80 | 126]) + struct.pack("!H", len(payload)) if long else bytes([0x80 | len(payload)])
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
        self._stream.write(bytes([0x80 | opcode]) + size + mask + masked)

    def _receive(self, until: float) -> tuple[int, bytes]:
        first, size = self._exactly(2, until)
        if size == 126:  # noqa: PLR2004  # RFC 6455: the length is in the next two bytes, or eight
            size = struct.unpack("!H", self._exactly(2, until))[0]
        elif size == 127:  # noqa: PLR2004
            size = struct.unpack("!Q", self._exactly(8, until))[0]
        return first & 0x0F, self._exactly(size, until)

    def _exactly(self, size: int, until: float) -> bytes:
        while len(self._raw) < size:
            try:
                data = self._stream.read(64 * 1024, timeout=max(0.01, until - time.monotonic()))
            except httpcore.TimeoutException:
                raise Wrong("nothing more was said") from None
            except httpcore.NetworkError as error:
                raise Wrong(f"the connection broke: {error}") from None
            if not data:
                raise Wrong("the connection was closed without a word")
            self._raw += data
        found, self._raw = self._raw[:size], self._raw[size:]
        return found


@contextmanager
def _open(api: Api) -> Iterator[_Socket]:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
    }
    with api.client.stream("GET", "/api/ws", headers=headers) as response:
        same(response.status_code, HTTPStatus.SWITCHING_PROTOCOLS.value, "the status of the handshake")
        yield _Socket(response.extensions["network_stream"])


def _token(api: Api) -> str:
    return api.headers()["Authorization"].removeprefix("Bearer ")
