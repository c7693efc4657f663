"""What handing a socket over relies on in uvicorn: when an upgrade changes any of it, this says so."""

import asyncio
import gc
import inspect
import socket
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from uvicorn.protocols.http import flow_control, httptools_impl

from shared.web.handover import Gone, offered
from shared.web.protocol import Protocol
from tests.support.batches import wait_for
from tests.support.web import served_by

HEADERS = [(b"content-type", b"text/plain"), (b"connection", b"close")]
LARGE = 8 * 2**20
"""Bytes, more than all buffers between two processes hold."""


class Successor(asyncio.Protocol):
    """Notes what happens to it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.seen: list[str] = []

    def data_received(self, data: bytes) -> None:
        self.seen.append(data.decode())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the protocol's signature
        self.seen.append("lost")


class Application:
    """`/take` hands over; `/slow` does after the client has had time to say more or to leave; `/large` and all others
    answer.
    """

    def __init__(self) -> None:
        self.successors: list[Successor] = []
        self.protocols: list[weakref.ref[Any]] = []
        self.gone = 0
        self.asked: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        self.asked.append(scope["path"])
        handover = offered(scope)
        assert handover is not None
        self.protocols.append(weakref.ref(handover._protocol))
        if scope["path"] not in {"/take", "/slow"}:
            await self._answer(send, b"x" * (LARGE if scope["path"] == "/large" else 2))
            return
        if scope["path"] == "/slow":
            await asyncio.sleep(0.3)
        await handover.start(send, 200, HEADERS)
        successor = Successor()
        try:
            successor.transport = handover.take(successor)
        except Gone:
            self.gone += 1
            return
        self.successors.append(successor)
        successor.transport.write(b"taken")

    async def _live(self, receive: Any, send: Any) -> None:
        self.loop = asyncio.get_running_loop()
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for successor in self.successors:
            if successor.transport is not None:
                successor.transport.abort()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, send: Any, body: bytes) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    def do(self, what: Callable[[], None]) -> None:
        """In the server's loop."""
        self.loop.call_soon_threadsafe(what)


@pytest.fixture
def application() -> Application:
    return Application()


def ask(address: str, *paths: str, more: bytes = b"") -> socket.socket:
    """A connection that asks for all of them at once."""
    place = urlsplit(address)
    connection = socket.create_connection((place.hostname or "", place.port or 0))
    connection.settimeout(10)
    connection.sendall(b"".join(f"GET {path} HTTP/1.1\r\nhost: here\r\n\r\n".encode() for path in paths) + more)
    return connection


def read(connection: socket.socket, end: bytes) -> bytes:
    seen = b""
    while not seen.endswith(end):
        data = connection.recv(2**20)
        assert data, seen[-200:]
        seen += data
    return seen


def test_the_head_is_the_servers_and_the_rest_the_successors(application: Application) -> None:
    with served_by(application) as (address, server), ask(address, "/take") as connection:
        seen = read(connection, b"taken")

        head, _, body = seen.partition(b"\r\n\r\n")
        status, *headers = head.split(b"\r\n")
        assert status == b"HTTP/1.1 200 OK"
        assert headers[-2:] == [b"content-type: text/plain", b"connection: close"]
        assert b"chunked" not in head
        assert body == b"taken"
        assert not server.server_state.connections, "a shutdown would wait for it"
        wait_for(lambda: not server.server_state.tasks, "the application to return")
        connection.sendall(b"later")
        wait_for(lambda: "later" in application.successors[0].seen, "what comes later")
        transport = application.successors[0].transport
        assert transport is not None
        application.do(lambda: transport.write(b" and still there"))
        read(connection, b" and still there")


def test_nothing_of_the_server_is_left(application: Application) -> None:
    with served_by(application) as (address, _), ask(address, "/take") as connection:
        read(connection, b"taken")

        def freed() -> bool:
            gc.collect()
            return application.protocols[0]() is None

        wait_for(freed, "the protocol to be forgotten")


def test_a_client_that_leaves_is_noticed(application: Application) -> None:
    with served_by(application) as (address, _):
        with ask(address, "/take") as connection:
            read(connection, b"taken")
        wait_for(lambda: application.successors[0].seen == ["lost"], "the end of the connection")


def test_a_client_that_left_before_is_not_taken(application: Application) -> None:
    with served_by(application) as (address, _):
        ask(address, "/slow").close()
        wait_for(lambda: application.gone, "the application to be told")
    assert not application.successors


@pytest.mark.parametrize("more", [b"GET /other HTTP/1.1\r\nhost: here\r\n\r\n", b"GET /other HTT"])
def test_what_is_asked_behind_it_is_not_answered(application: Application, more: bytes) -> None:
    with served_by(application) as (address, _):
        with ask(address, "/slow", more=more) as connection:
            read(connection, b"taken")
            connection.sendall(b"GET /third HTTP/1.1\r\n\r\n")
            wait_for(lambda: application.successors[0].seen, "the reading to go on")
        wait_for(lambda: application.successors[0].seen[-1] == "lost", "the end of the connection")
    assert application.asked == ["/slow"]


def test_what_was_asked_before_it_is_answered(application: Application) -> None:
    served = served_by(application, timeout_keep_alive=1)
    with served as (address, _), ask(address, "/other", "/take") as connection:
        seen = read(connection, b"taken")
        assert seen.count(b"HTTP/1.1 200 OK") == 2
        connection.settimeout(1.5)
        with pytest.raises(TimeoutError):  # the timer between two requests is off
            connection.recv(1)
    assert application.asked == ["/other", "/take"]


def test_one_that_cannot_be_written_to_is_not_handed_over_before_it_can(application: Application) -> None:
    with served_by(application) as (address, server), ask(address, "/large", "/take") as connection:
        wait_for(lambda: len(application.asked) == 2, "the second to be asked for")
        assert server.server_state.connections
        assert not application.successors
        assert len(read(connection, b"taken")) > LARGE
        assert application.successors[0].seen == []


def test_a_shutdown_does_not_wait_for_it(application: Application) -> None:
    with served_by(application) as (address, server):
        connection = ask(address, "/take")
        read(connection, b"taken")
        server.should_exit = True
        wait_for(lambda: not server.started or application.successors[0].seen, "the application to be told", 5)
        with connection, suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_what_it_touches_is_there() -> None:
    """Attributes that an upgrade may rename without anything failing at once."""
    protocol = inspect.getsource(httptools_impl.HttpToolsProtocol)
    for name in ("connections", "pipeline", "parser", "cycle", "flow", "scheme", "transport", "scope"):
        assert f"self.{name}" in protocol, name
    assert callable(Protocol._unset_keepalive_if_required)
    cycle = inspect.getsource(httptools_impl.RequestResponseCycle)
    for name in ("chunked_encoding", "disconnected", "body", "message_event", "response_complete"):
        assert f"self.{name}" in cycle, name
    flow = inspect.getsource(flow_control.FlowControl)
    for name in ("read_paused", "write_paused", "resume_reading"):
        assert name in flow, name
