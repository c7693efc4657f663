"""Viewers whose network goes away: nobody says goodbye."""

import socket
import time
from typing import Any

import pytest
import redis
from msgspec.structs import replace

from shared.auth import issue_token
from shared.channels import viewers_key
from shared.settings import Settings
from tests.support.afar import afar
from tests.support.batches import OWNER, wait_for
from tests.support.sse import Event, Parser, Stream
from tests.support.streams import stream_process
from tests.support.writer import Writer

UNMOVED = 10
"""Seconds after which a connection on which nothing arrives is given up, with heartbeats that are close together."""


class Reader:
    """Of a stream in HTTP/1.0, over a connection that is there already."""

    def __init__(self, connection: socket.socket, writer: Writer, token: str) -> None:
        self.socket = connection
        self._parser = Parser()
        self._head = b""
        ask = (f"GET /api/batches/{writer.batch_id}/stream HTTP/1.0", f"Authorization: Bearer {token}", "", "")
        self.socket.sendall("\r\n".join(ask).encode())

    def reach(self, version: int) -> None:
        """Reads on until there."""
        self.socket.settimeout(20)
        until = time.monotonic() + 20
        while all(event.data.get("version") != version for event in self._read()):
            assert time.monotonic() < until, f"version {version} did not come"

    def _read(self) -> list[Event]:
        data = self.socket.recv(2**16)
        assert data, "the connection was ended"
        if b"\r\n\r\n" not in self._head:
            self._head, end, data = (self._head + data).partition(b"\r\n\r\n")
            self._head += end
        return list(self._parser.feed(data))


def test_who_vanishes_is_given_up_after_a_while_and_who_is_only_quiet_is_not(
    settings: Settings, writer: Writer
) -> None:
    settings = replace(settings, heartbeat=1, window=0)
    token = issue_token(settings, OWNER)
    with (
        afar(settings) as service,
        stream_process(settings) as (address, _),
        Stream(address, writer.batch_id, token) as quiet,
        Stream(address, writer.batch_id, token, receive_buffer=2048) as stuck,
        redis.Redis.from_url(settings.redis_url) as client,
        service.connect() as first,
        service.connect() as second,
    ):

        def viewers() -> int:
            told: Any = client.hgetall(viewers_key(settings.namespace, OWNER))
            return sum(int(value.partition(b":")[0]) for value in told.values())

        quiet.delta()  # and from now on it neither says nor reads anything
        stuck.delta()  # what comes next finds no room
        readers = [Reader(first, writer, token), Reader(second, writer, token)]
        for reader in readers:
            reader.reach(1)
        wait_for(lambda: viewers() == 4, "all to be counted")
        service.pull()
        writer.start(0)
        version = writer.progress(0, 5, lines=10, text="x" * 4000)
        time.sleep(1.5)  # long enough for packets to be sent again, thrice
        service.plug()
        for reader in readers:
            reader.reach(version)
        assert viewers() == 4

        service.pull()
        pulled = time.monotonic()
        wait_for(lambda: viewers() == 1, "those who vanished, or take nothing, to be given up", 3 * UNMOVED)
        assert time.monotonic() - pulled > UNMOVED / 2
        service.plug()
        with service.connect() as third:
            Reader(third, writer, token).reach(version)
        version = writer.progress(0, 10, lines=1)
        quiet.to_version(version)
        with pytest.raises(OSError):  # noqa: PT011  # which, is for the system to say
            stuck.to_version(version)
        with Stream(address, writer.batch_id, token, record=stuck.record) as again:
            again.to_version(version)
        assert again.record.lines == quiet.record.lines
