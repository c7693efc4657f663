"""Stream services for tests: in a thread of the test's own, or as the process that it is in production."""

import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import redis
from litestar import Litestar
from msgspec.structs import replace

from services.stream.app import create_app
from shared.settings import Settings
from tests.support.batches import wait_for
from tests.support.ports import own_port
from tests.support.processes import service
from tests.support.web import served_by

SEND_BUFFER = 16 * 1024
"""Bytes that the kernel keeps for a viewer; in production until a connection has shown what it can take."""


@contextmanager
def stream_thread(
    settings: Settings, *, within: Callable[[Litestar], Any] = lambda app: app, send_buffer: int | None = None
) -> Iterator[tuple[str, Litestar]]:
    """Its address, once it hears of changes if Redis is there, and the application.

    `within`: what the server is given instead. `send_buffer`: what the kernel keeps for a viewer, in bytes.
    """
    app = create_app(settings)
    with served_by(within(app)) as (address, server):
        if send_buffer is not None:
            server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        with suppress(redis.ConnectionError):
            with redis.Redis.from_url(settings.redis_url) as client:
                client.ping()
            wait_for(lambda: app.state.hub.topics.source.connected, "the stream service to find Redis")
        yield address, app


@contextmanager
def stream_process(
    settings: Settings, module: str = "services.stream", *, within: Sequence[str] = (), port: int | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its address, once it answers, and the process. `within`: a command that becomes the one behind it."""
    port = port or own_port()
    address = f"http://127.0.0.1:{port}"
    with service(module, settings=replace(settings, port=port), within=within) as process:
        answers = lambda: process.poll() is not None or status(address, "/health/live") == 200  # noqa: E731
        wait_for(answers, f"{module} to answer", 60)
        assert process.poll() is None, f"{module} did not start"
        yield address, process


def status(address: str, path: str) -> int | None:
    """The status of a GET; None if nobody answers."""
    try:
        return httpx.get(f"{address}{path}", trust_env=False).status_code
    except httpx.TransportError:
        return None


def health(address: str) -> dict[str, str]:
    """What `/health/ready` says of each part."""
    content: dict[str, str] = httpx.get(f"{address}/health/ready", trust_env=False).json()
    return content
