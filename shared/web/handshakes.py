"""Which WebSockets are let in at all: those of an address that has one, and of pages that may use us."""

from urllib.parse import urlsplit

from litestar import Litestar
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from shared.errors import Forbidden, NotFound
from shared.settings import Settings, read_origins
from shared.web.denial import deny


class Handshakes:
    """Around an application. Browsers let every page open a WebSocket to anywhere, and say only who asks: it is on us
    to refuse. Programs, which are no pages, say nothing.
    """

    def __init__(self, inner: ASGIApp, app: Litestar, settings: Settings) -> None:
        """Raises SettingsError."""
        self._inner = inner
        self._addresses = {
            route.path_format for route in app.routes if getattr(route, "scope_type", None) is ScopeType.WEBSOCKET
        }
        self._allowed = read_origins(settings)
        self._host = urlsplit(settings.public_url).netloc.lower().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.WEBSOCKET:
            if scope["path"].rstrip("/") not in self._addresses:
                await deny(scope, send, NotFound())
                return
            if not self._welcome(scope):
                await deny(scope, send, Forbidden("pages of this origin may not connect"))
                return
        await self._inner(scope, receive, send)

    def _welcome(self, scope: Scope) -> bool:
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if not origins:
            return True
        hosts = {value.lower() for name, value in scope["headers"] if name == b"host"} | {self._host}
        scheme, _, host = origins[0].lower().partition(b"://")
        ours = scheme in {b"http", b"https"} and host in hosts
        return len(origins) == 1 and (ours or origins[0] in self._allowed)
