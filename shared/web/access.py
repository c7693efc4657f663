"""One line of log for each request: what was asked, by which route, and how it ended. Never the address as it came."""

import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog

_PROBES = "/health/"

log = structlog.get_logger(__name__)


def route(scope: Mapping[str, Any]) -> str:
    """The route that was taken, such as `/api/batches/{batch_id}`: what stands in an address may be a ticket."""
    return str(scope.get("path_template") or "unknown")


class AccessLog:
    """An ASGI application around another. A stream is told of when it ends; probes are not told of."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_PROBES):
            await self._app(scope, receive, send)
            return
        status = 0  # nobody was answered

        async def note(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])  # it may be an HTTPStatus, which is written out as that
            await send(message)

        began = time.perf_counter()
        try:
            await self._app(scope, receive, note)
        finally:
            tell = log.warning if status >= HTTPStatus.INTERNAL_SERVER_ERROR else log.info
            milliseconds = round(1000 * (time.perf_counter() - began), 1)
            tell("request", method=scope["method"], route=route(scope), status=status, ms=milliseconds)
