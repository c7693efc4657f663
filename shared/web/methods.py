"""`Allow` in the reply to OPTIONS: all methods of a path, not those of one handler (litestar-org/litestar#4169)."""

from typing import Any

from litestar import Litestar
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send


class Methods:
    """Around an application's own ASGI handler; whether the asker may know is decided in there."""

    def __init__(self, inner: ASGIApp, app: Litestar) -> None:
        self._inner = inner
        self._methods = {
            route.path_format: ", ".join(sorted(route.methods)).encode()
            for route in app.routes
            if hasattr(route, "methods")
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["method"] != "OPTIONS":
            await self._inner(scope, receive, send)
            return

        async def corrected(message: Message) -> None:
            # by then the route has been found
            methods = self._methods.get(str(scope.get("path_template")))
            if message["type"] == "http.response.start" and methods is not None:
                headers: list[Any] = [
                    (name, methods if name == b"allow" else value) for name, value in message["headers"]
                ]
                message = {**message, "headers": headers}
            await send(message)

        await self._inner(scope, receive, corrected)
