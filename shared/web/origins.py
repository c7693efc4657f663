"""Cross-origin use: which other sites' pages may talk to us. None, unless HEADWAY_ORIGINS names them.

Litestar's own CORS tells every site what listed ones may do, answers refused preflights in plain text, and says `Vary`
only where it allowed something, so that a cache may keep one origin's reply for another.
"""

from http import HTTPStatus

from litestar import Litestar
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from shared.settings import Settings, read_origins
from shared.web.handshakes import Handshakes
from shared.web.methods import Methods

METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
ACCEPTED = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, traceparent, tracestate"
"""Headers that a page may send beyond those that any page may."""
EXPOSED = "Allow, Content-Disposition, Location, Retry-After, WWW-Authenticate"
"""Headers that a page may read beyond those that any page may."""

_MAX_AGE = "600"
"""Seconds for which a browser need not ask again; an origin that is no longer listed is refused that soon."""

Headers = list[tuple[bytes, bytes]]


class Origins:
    """Around a whole application: errors, streams and replies without a body are let through like all others.

    Preflights are answered here, all of them: an application behind would ask for a token.
    """

    def __init__(self, app: ASGIApp, allowed: frozenset[bytes]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        origin = headers.get(b"origin", b"")
        granted = origin in self._allowed
        if scope["method"] == "OPTIONS" and origin and b"access-control-request-method" in headers:
            # a browser's question, which never carries a token: without a grant in the answer, that is a no
            grants = [*_granted(origin), *_PREFLIGHT] if granted else []
            await send(
                {
                    "type": "http.response.start",
                    "status": HTTPStatus.NO_CONTENT,
                    "headers": [*grants, *_PREFLIGHT_VARY],
                }
            )
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif granted:
            await self._app(scope, receive, _sender(send, [*_granted(origin), *_EXPOSED, *_VARY]))
        else:
            await self._app(scope, receive, _sender(send, _VARY) if self._allowed else send)


def _sender(send: Send, headers: Headers) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *headers]}
        await send(message)

    return sender


def _granted(origin: bytes) -> Headers:
    return [(b"access-control-allow-origin", origin), (b"access-control-allow-credentials", b"true")]


_VARY: Headers = [(b"vary", b"Origin")]
_EXPOSED: Headers = [(b"access-control-expose-headers", EXPOSED.encode())]
_PREFLIGHT: Headers = [
    (b"access-control-allow-methods", METHODS.encode()),
    (b"access-control-allow-headers", ACCEPTED.encode()),
    (b"access-control-max-age", _MAX_AGE.encode()),
]
_PREFLIGHT_VARY: Headers = [(b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers")]


def admit_origins(app: Litestar, settings: Settings) -> Litestar:
    """The application, used by pages of the listed origins as well. Raises SettingsError."""
    app.asgi_handler = Handshakes(Origins(Methods(app.asgi_handler, app), read_origins(settings)), app, settings)
    return app
