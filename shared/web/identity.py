"""Who is asking: a Bearer token and, only where asked, a ticket in the URL. Neither may ever be logged."""

from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from msgspec import Struct

from shared.auth import Claims, verify_ticket, verify_token
from shared.errors import Forbidden, NotFound, Unauthenticated
from shared.settings import Settings

Connection = ASGIConnection[Any, Any, Any, Any]

_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Reader(Struct, frozen=True):
    """Who reads a batch. `expires` in seconds since the Unix epoch: a stream by token ends then, one by ticket not."""

    owner: str
    expires: float
    by_ticket: bool


def bearer(settings: Settings, connection: Connection) -> Claims:
    """Raises Unauthenticated."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("expected a header Authorization: Bearer <token>")
    return verify_token(settings, token.strip())


def authenticate(connection: Connection, handler: BaseRouteHandler) -> None:
    """A guard: comes before parameters and body are looked at. Puts the Claims into `request.auth`.

    Raises Unauthenticated, and Forbidden when the token lacks the scope that the method needs, or the one that the
    handler names by `scope_needed=…` instead.
    """
    claims = bearer(connection.app.state.settings, connection)
    reading = connection.scope["method"] in _READING  # type: ignore[typeddict-item]
    _demand(claims, handler.opt.get("scope_needed", "read" if reading else "write"))
    connection.scope["auth"] = claims
    connection.scope["user"] = claims.owner


def reader(settings: Settings, connection: Connection, batch_id: UUID) -> Reader:
    """Whoever may read this batch, by token or by ticket; whether it exists and is theirs, PostgreSQL knows.

    Raises Unauthenticated, Forbidden, and NotFound for a ticket of another batch.
    """
    ticket = parse_qs(connection.scope["query_string"].decode("latin-1")).get("ticket")
    if ticket and "authorization" not in connection.headers:
        claims = verify_ticket(settings, ticket[0])
        if claims.batch_id != batch_id:
            raise NotFound
        return Reader(claims.owner, claims.expires, by_ticket=True)
    token = bearer(settings, connection)
    _demand(token, "read")
    return Reader(token.owner, token.expires, by_ticket=False)


def _demand(claims: Claims, scope: str) -> None:
    if not claims.may(scope):
        raise Forbidden(f"the token's scope does not include `{scope}`")
