"""Our HTTP services behind the real server, in a thread of the test's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from threading import Thread
from typing import Any

import httpx
import uvicorn

from shared.auth import issue_token
from shared.settings import Settings
from shared.web.protocol import Protocol
from shared.web.sockets import Socket
from tests.support.batches import OWNER, wait_for


@contextmanager
def served(app: Any, **config_options: Any) -> Iterator[str]:
    """The address at which the application answers."""
    with served_by(app, **config_options) as (address, _):
        yield address


async def live(receive: Any, send: Any) -> None:
    """What an application says to `lifespan` that has nothing to prepare or to clean up."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def answering(status: int, body: bytes = b"") -> Any:
    """An application that says the same to everybody."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]}
        )
        await send({"type": "http.response.body", "body": body})

    return app


@contextmanager
def served_by(app: Any, **config_options: Any) -> Iterator[tuple[str, uvicorn.Server]]:
    """The address at which the application answers, and the server, which runs in a thread of its own."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        http=Protocol,
        ws=Socket,
        ws_per_message_deflate=False,
        lifespan="on",
        **config_options,
    )
    server = uvicorn.Server(config)
    thread = Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive(), "the server to start")
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"{'https' if config.is_ssl else 'http'}://{host}:{port}", server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"


def client(address: str, settings: Settings, owner: str = OWNER, scope: str | None = None) -> httpx.Client:
    """Somebody with a token."""
    token = issue_token(settings, owner, scope=scope)
    return httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=20, trust_env=False)


def rehearsal(jobs: int = 1, params: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """The body of `POST /api/batches` for so many equal jobs."""
    given = [{"name": f"job {number}", "params": params or {}} for number in range(jobs)]
    return {"kind": "rehearsal", "title": "a rehearsal", "jobs": given} | fields


def submit(api: httpx.Client, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """A batch that was just created."""
    reply = api.post("/api/batches", json=body or rehearsal())
    assert reply.status_code == HTTPStatus.CREATED, reply.text
    return decoded(reply)


def decoded(reply: httpx.Response) -> dict[str, Any]:
    content: dict[str, Any] = reply.json()
    return content


def assert_problem(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The reply is this problem, in the form that RFC 9457 and docs/protocol.md give it; what it says."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    said = decoded(reply)
    assert said["type"] == f"/problems/{code}"
    assert said["status"] == status
    assert said["title"]
    assert said["detail"]
    assert ("errors" in said) == (code == "invalid")
    return said


def wrong_paths(reply: httpx.Response) -> list[str]:
    """The fields that a 422 names."""
    return [error["path"] for error in assert_problem(reply, 422, "invalid")["errors"]]
