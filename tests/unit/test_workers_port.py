"""The workers' port, asked as nobody should ask it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from infra.workers import port as port_module
from infra.workers.port import Port, PortError, Reply, listen
from tests.support.ports import own_port

HOST = "127.0.0.1"


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    number = own_port()
    port = Port(listen(HOST, number), {"/health/live": lambda: Reply(200, b"{}")})
    task = asyncio.create_task(port.serve())
    try:
        yield number
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def ask(number: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, number)
    writer.write(request)
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n", b"200 OK"),
        (b"GET /health/live?verbose HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"POST /health/live HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"405 Method Not Allowed"),
        (b"HEAD /health/live HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"GET /health/live\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\r\n\r\n", b"400 Bad Request"),
    ],
)
async def test_it_answers_and_closes(request_: bytes, status: bytes) -> None:
    async with serving() as number:
        reply = await ask(number, request_)
    assert reply.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert b"\r\nConnection: close\r\n" in reply
    assert (b"\r\nAllow: GET\r\n" in reply) == status.startswith(b"405")


async def test_a_head_without_an_end_gets_no_answer() -> None:
    async with serving() as number:
        assert await ask(number, b"GET /health/live HTTP/1.1\r\n" + b"X: y\r\n" * 10_000) == b""


async def test_those_who_say_nothing_keep_nobody_up_and_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_module, "_SECONDS", 1.0)
    monkeypatch.setattr(port_module, "_MOST", 3)
    question = b"GET /health/live HTTP/1.1\r\n\r\n"
    async with serving() as number:
        silent = [await asyncio.open_connection(HOST, number) for _ in range(2)]
        assert b"200 OK" in await ask(number, question)
        silent.append(await asyncio.open_connection(HOST, number))
        assert await ask(number, question) == b"", "a fourth is one too many"
        for reader, writer in silent:
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
        assert b"200 OK" in await ask(number, question)


def test_a_port_that_is_taken_is_one_sentence() -> None:
    number = own_port()
    with socket.create_server((HOST, number)), pytest.raises(PortError) as error:
        listen(HOST, number)
    assert str(error.value) == f"Cannot listen on {HOST} port {number}: Address already in use."
