"""`python -m tests.support.plain_stream`: the stream service where the server does not hand sockets over."""

import sys
from typing import Any

from services.stream.__main__ import start
from services.stream.app import create_app
from shared.settings import Settings
from shared.web.handover import EXTENSION, LAST
from shared.web.serve import run_service
from shared.web.sockets import EXTENSION as SOCKET_EXTENSION


class Plain:
    """An application that is not told of the extensions, as under another server."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for extension in (EXTENSION, LAST, SOCKET_EXTENSION):
            scope.get("extensions", {}).pop(extension, None)
        await self._app(scope, receive, send)


def create_plain(settings: Settings) -> Any:
    return Plain(create_app(settings))


if __name__ == "__main__":
    sys.exit(run_service("stream", lambda settings: start(settings, create_plain)))
