"""Our HTTP services behind the real server, in a thread of the test's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import httpx
import uvicorn

from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER, wait_for


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The address at which the application answers."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, access_log=False, http="httptools", lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive(), "the server to start")
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"


def client(address: str, settings: Settings, owner: str = OWNER, scope: str | None = None) -> httpx.Client:
    """Somebody with a token."""
    token = issue_token(settings, owner, scope=scope)
    return httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=20, trust_env=False)
