"""One line of log for each request: what was asked, by which route, and how it ended. Never the address as it came."""

import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog

from shared.web.handover import offered

_PROBES = "/health/", "/metrics"

_STARTS = {"http.response.start", "websocket.http.response.start"}

_NORMAL, _NO_CODE = 1000, 1005
"""What ASGI takes a WebSocket's close for that has no code."""

log = structlog.get_logger(__name__)


def route(scope: Mapping[str, Any]) -> str:
    """The route that was taken, such as `/api/batches/{batch_id}`: what stands in an address may be a ticket."""
    return str(scope.get("path_template") or "unknown")


def tell_request(method: str, route: str, status: int, seconds: float, **more: int) -> None:
    """The line. `status` 0: nobody was answered."""
    tell = log.warning if status >= HTTPStatus.INTERNAL_SERVER_ERROR else log.info
    tell("request", method=method, route=route, status=status, ms=round(1000 * seconds, 1), **more)


class AccessLog:
    """An ASGI application around another. A stream is told of when it ends, by whoever has its socket then, a WebSocket
    too (status 101, and with which `code` it was closed); probes are not told of.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or scope["path"].startswith(_PROBES):
            await self._app(scope, receive, send)
            return
        status = 0  # nobody was answered
        closed: dict[str, int] = {}

        async def note(message: Any) -> None:
            nonlocal status
            if message["type"] in _STARTS:
                status = int(message["status"])  # it may be an HTTPStatus, which is written out as that
            elif message["type"] == "websocket.accept":
                status = int(HTTPStatus.SWITCHING_PROTOCOLS)
            elif message["type"] == "websocket.close" and status:
                closed["code"] = int(message.get("code", _NORMAL))
            await send(message)

        async def hear() -> Any:
            message = await receive()
            if message["type"] == "websocket.disconnect" and status:
                closed.setdefault("code", int(message.get("code", _NO_CODE)))
            return message

        began = time.perf_counter()
        try:
            await self._app(scope, hear if scope["type"] == "websocket" else receive, note)
        finally:
            handover = offered(scope)
            if handover is None or not handover.taken:
                tell_request(scope.get("method", "GET"), route(scope), status, time.perf_counter() - began, **closed)
