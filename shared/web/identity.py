"""Who is asking: a Bearer token and, only where asked, a report token or a ticket in the URL. None may be logged."""

from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from msgspec import Struct

from shared.auth import Claims, TicketClaims, check_token, is_report_token, verify_report_token, verify_ticket
from shared.errors import Forbidden, NotFound, Unauthenticated
from shared.settings import Settings

Connection = ASGIConnection[Any, Any, Any, Any]

_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Reader(Struct, frozen=True):
    """Who reads a batch. `expires` in seconds since the Unix epoch: a stream by token ends then, one by ticket not."""

    owner: str
    expires: float
    by_ticket: bool


async def bearer(connection: Connection) -> Claims:
    """Whose token it is; the application's state must hold `settings` and `token_keys`.

    Raises Unauthenticated, and Unavailable when the keys of tokens cannot be reached.
    """
    state = connection.app.state
    return await check_token(state.settings, state.token_keys, _token(connection))


async def reporter(connection: Connection) -> Claims:
    """As `bearer`, by a report token as well. Raises NotFound for one of another batch than the address names."""
    token = _token(connection)
    if not is_report_token(token):
        return await bearer(connection)
    claims = verify_report_token(connection.app.state.settings, token)
    if "batch_id" in connection.path_params and not claims.may_see(connection.path_params["batch_id"]):
        raise NotFound
    return claims


def _token(connection: Connection) -> str:
    """Raises Unauthenticated when there is none."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("expected a header Authorization: Bearer <token>")
    return token.strip()


async def authenticate(connection: Connection, handler: BaseRouteHandler) -> None:
    """A guard: comes before parameters and body are looked at. Puts the Claims into `request.auth`.

    A handler names the scope that it needs by `scope_needed=…`, if it is not the one that its method needs. With
    `ticket_opens=True` a ticket of the batch in its address (`batch_id`) will do in place of a token, and with
    `reporter_opens=True` a report token will; a handler whose address names a job sees to it that it is of the
    ticket's or token's batch (`Claims.may_see`).

    Raises Unauthenticated, Forbidden when the token lacks the scope, NotFound for another batch's ticket, Unavailable.
    """
    if handler.opt.get("ticket_opens"):
        claims = await _ticket_or_bearer(connection)
    else:
        claims = await (reporter if handler.opt.get("reporter_opens") else bearer)(connection)
        method = connection.scope["method"]  # type: ignore[typeddict-item]
        _demand(claims, handler.opt.get("scope_needed", "read" if method in _READING else "write"))
    connection.scope["auth"] = claims
    connection.scope["user"] = claims.owner


async def _ticket_or_bearer(connection: Connection) -> Claims:
    if "batch_id" in connection.path_params:
        reading = await reader(connection, connection.path_params["batch_id"])
        return Claims(reading.owner, frozenset({"read"}), reading.expires)
    ticket = _ticket(connection)
    if ticket is None:
        reading = await bearer_reader(connection)
        return Claims(reading.owner, frozenset({"read"}), reading.expires)
    return Claims(ticket.owner, frozenset({"read"}), ticket.expires, ticket.batch_id)


async def reader(connection: Connection, batch_id: UUID) -> Reader:
    """Whoever may read this batch, by token or by ticket; whether it exists and is theirs, PostgreSQL knows.

    Raises Unauthenticated, Forbidden, NotFound for a ticket of another batch, and Unavailable.
    """
    if (claims := _ticket(connection)) is not None:
        if claims.batch_id != batch_id:
            raise NotFound
        return Reader(claims.owner, claims.expires, by_ticket=True)
    return await bearer_reader(connection)


def _ticket(connection: Connection) -> TicketClaims | None:
    """The one in the URL, if there is no token. Raises Unauthenticated for one that is not good (any more)."""
    ticket = parse_qs(connection.scope["query_string"].decode("latin-1")).get("ticket")
    if not ticket or "authorization" in connection.headers:
        return None
    settings: Settings = connection.app.state.settings
    return verify_ticket(settings, ticket[0])


async def bearer_reader(connection: Connection) -> Reader:
    """Whoever may read, by token. Raises Unauthenticated, Forbidden and Unavailable."""
    token = await bearer(connection)
    _demand(token, "read")
    return Reader(token.owner, token.expires, by_ticket=False)


def _demand(claims: Claims, scope: str) -> None:
    if not claims.may(scope):
        raise Forbidden(f"the token's scope does not include `{scope}`")
