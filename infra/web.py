"""`python -m infra.web`: api and stream in one process at one address, for `make run`; elsewhere a gateway does it."""

import re
import sys
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Any

from litestar import Litestar

from services.api.app import create_app as create_api
from services.stream.app import create_app as create_stream
from shared.files import check_place
from shared.settings import Settings
from shared.web.metrics import ADDRESS, metrics_route
from shared.web.serve import run_service, serve

_STREAM = re.compile(r"/api/(batches/[^/]+/(stream|changes)|stream|ws)/?")


class Web:
    """Both services as one ASGI application."""

    def __init__(self, api: Litestar, stream: Litestar) -> None:
        self.api = api
        self.stream = stream
        self._metrics = Litestar(
            [metrics_route(api.state.exposition, stream.state.exposition)], openapi_config=None, logging_config=None
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif _STREAM.fullmatch(scope["path"]):
            await self.stream(scope, receive, send)
        elif scope["path"].rstrip("/") == ADDRESS:
            await self._metrics(scope, receive, send)
        elif scope["path"] == "/health/ready":
            await self._ready(scope, receive, send)
        else:
            await self.api(scope, receive, send)

    async def _live(self, receive: Any, send: Any) -> None:
        async with AsyncExitStack() as running:
            await receive()
            for app in (self.api, self.stream):
                await running.enter_async_context(app.lifespan())
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _ready(self, scope: Any, receive: Any, send: Any) -> None:
        """Ready when both are: what stream says if that is "no", else what api says. Their parts are the same."""
        answer: list[Any] = []

        async def note(message: Any) -> None:
            answer.append(message)

        await self.stream(scope.copy(), receive, note)
        if answer[0]["status"] == HTTPStatus.OK:
            await self.api(scope, receive, send)
            return
        for message in answer:
            await send(message)


def start(settings: Settings) -> None:
    check_place(settings, writing=True)
    web = Web(create_api(settings), create_stream(settings))
    hub = web.stream.state.hub
    serve(web, host=settings.host, port=settings.port, on_exit=hub.drain, heartbeat=settings.heartbeat)


def main() -> int:
    return run_service("web", start)


if __name__ == "__main__":
    sys.exit(main())
