"""Readers that stand still in something long while others wait for room: they are given up, or begin again."""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from services.stream import buffer
from shared.settings import Settings
from tests.support.batches import make_batch, wait_for
from tests.support.feeds import FeedStream
from tests.support.metrics import Numbers
from tests.support.sse import Stream
from tests.support.streams import SEND_BUFFER, stream_process, stream_thread
from tests.support.websockets import RawSocket, Reader
from tests.support.writer import Writer

JOBS = 1500
"""Several chunks, and more than the kernel takes for a reader that does not read."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "STUCK", 1.0)


@pytest.fixture
def batches(make_writer: Callable[..., Writer]) -> tuple[Writer, Writer]:
    return make_writer(JOBS), make_writer(JOBS)


@pytest.fixture
def narrow(settings: Settings) -> Settings:
    """There is room for one."""
    return replace(settings, buffer=1, heartbeat=1)


@contextmanager
def asked(address: str, path: str, token: str) -> Iterator[socket.socket]:
    """A request of somebody who does not read."""
    parts = urlsplit(address)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect((parts.hostname, parts.port))
        lines = [f"GET {path} HTTP/1.1", f"Host: {parts.netloc}", f"Authorization: Bearer {token}", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        yield connection


def rest_of(connection: socket.socket) -> bytes:
    data = b""
    try:
        while part := connection.recv(2**20):
            data += part
    except ConnectionResetError:
        pass
    return data


def changes_of(address: str, writer: Writer, token: str) -> int:
    """How many jobs there are in a reply that is read."""
    url = f"{address}/api/batches/{writer.batch_id}/changes"
    reply = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=20, trust_env=False)
    assert reply.status_code == 200, reply.text
    return len(reply.json()["jobs"])


def test_a_reply_that_is_not_read_is_cut_off(
    narrow: Settings, batches: tuple[Writer, Writer], token: str, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = batches
    with (
        stream_thread(narrow, send_buffer=SEND_BUFFER) as (address, app),
        asked(address, f"/api/batches/{one.batch_id}/changes", token) as stuck,
    ):
        numbers = Numbers(address)
        wait_for(lambda: app.state.hub.buffer.full, "the reply to begin")
        assert numbers["connections{changes}"] == 1

        assert changes_of(address, two, token) == JOBS

        numbers.wait("connections_closed_total{stuck,changes}", 1)
        assert numbers["connections_closed_total{finished,changes}"] == 1
        assert numbers["connections{changes}"] == 0
        head, _, body = rest_of(stuck).partition(b"\r\n\r\n")
        (announced,) = [int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"content-length: ")]
        assert len(body) < announced
        assert "without completing" not in caplog.text, "the server knows of it"
        wait_for(lambda: not app.state.hub.present, "it to have left")
        assert app.state.hub.buffer.held == 0


def test_a_reply_that_nobody_waits_for_may_be_read_late(
    narrow: Settings, batches: tuple[Writer, Writer], token: str
) -> None:
    one, _ = batches
    with (
        stream_thread(narrow, send_buffer=SEND_BUFFER) as (address, app),
        asked(address, f"/api/batches/{one.batch_id}/changes", token) as slow,
    ):
        wait_for(lambda: app.state.hub.buffer.full, "the reply to begin")
        begun = app.state.hub.buffer.clock()
        wait_for(lambda: app.state.hub.buffer.clock() > begun + 2.5, "longer than it would be given")
        data = b""
        while not data.endswith(b'"lines":[]}'):
            part = slow.recv(2**16)
            assert part, "it was cut"
            data += part
        Numbers(address).wait("connections_closed_total{finished,changes}", 1)


def test_a_stream_within_an_event_is_cut_off(
    narrow: Settings, engine: sa.Engine, batches: tuple[Writer, Writer], token: str
) -> None:
    for _ in range(40):
        make_batch(engine, metadata={"note": "x" * 15_000})
    with (
        stream_thread(narrow, send_buffer=SEND_BUFFER) as (address, app),
        closing(Stream(address, "", token, path="/api/stream", receive_buffer=4096)),
    ):
        wait_for(lambda: app.state.hub.buffer.full, "the feed to begin")
        assert changes_of(address, batches[0], token) == JOBS
        Numbers(address).wait("connections_closed_total{stuck,events}", 1)
        with FeedStream(address, token) as again:
            assert len(again.all()) == 42


def test_a_stream_between_events_begins_again(narrow: Settings, batches: tuple[Writer, Writer], token: str) -> None:
    one, two = batches
    with (
        stream_thread(narrow, send_buffer=SEND_BUFFER) as (address, app),
        Stream(address, one.batch_id, token, receive_buffer=4096) as stuck,
    ):
        wait_for(lambda: app.state.hub.buffer.full, "the stream to begin")
        assert changes_of(address, two, token) == JOBS
        stuck.to_version(1)
        assert len(stuck.record.jobs) == JOBS
        assert Numbers(address)["deliveries_total"] == 3, "twice to one"


def test_a_topic_of_a_websocket_begins_again(narrow: Settings, batches: tuple[Writer, Writer], token: str) -> None:
    one, two = batches
    topic = f"batch:{one.batch_id}"
    with (
        stream_thread(narrow, send_buffer=SEND_BUFFER) as (address, app),
        RawSocket(address, token, receive_buffer=4096) as stuck,
    ):
        reader = Reader(stuck)
        reader.subscribe(topic)
        wait_for(lambda: app.state.hub.buffer.full, "the topic to begin")
        assert changes_of(address, two, token) == JOBS
        reader.delta(topic)
        assert len(reader.records[topic].jobs) == JOBS
        numbers = Numbers(address).read()
        assert numbers["deliveries_total"] == 3, "twice to one"
        assert numbers["connections{websocket}"] == 1


def test_who_waits_for_room_and_leaves_is_forgotten(
    narrow: Settings, batches: tuple[Writer, Writer], token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffer, "STUCK", 60)
    one, two = batches
    with (
        stream_thread(narrow, send_buffer=SEND_BUFFER) as (address, app),
        asked(address, f"/api/batches/{one.batch_id}/changes", token),
    ):
        hub = app.state.hub
        wait_for(lambda: hub.buffer.full, "the reply to begin")
        with asked(address, f"/api/batches/{two.batch_id}/changes", token):
            wait_for(lambda: hub.buffer.waiting, "the other to wait")
        wait_for(lambda: not hub.buffer.waiting, "it to be forgotten")
        wait_for(lambda: hub.present == 1, "it to have left")


def test_who_waits_for_room_of_a_server_that_leaves_is_sent_elsewhere(
    narrow: Settings, batches: tuple[Writer, Writer], token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffer, "STUCK", 60)
    one, two = batches
    with (
        stream_process(narrow) as (address, process),
        Stream(address, one.batch_id, token, receive_buffer=4096),
    ):
        numbers = Numbers(address)
        numbers.wait("deliveries_total", 1)
        with asked(address, f"/api/batches/{two.batch_id}/changes", token) as waiting:
            numbers.wait("viewers", 2)
            process.send_signal(signal.SIGTERM)
            assert rest_of(waiting).startswith(b"HTTP/1.1 503 ")
