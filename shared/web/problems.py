"""Every error leaves as `application/problem+json` (RFC 9457), the framework's and the database's own included."""

from http import HTTPStatus
from typing import Any

import psycopg
import sqlalchemy.exc
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap, Receive, Scope, Send

from shared.errors import (
    DiskFull,
    HeadwayError,
    Invalid,
    Malformed,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
    problem,
)
from shared.events import encode
from shared.outage import Outage
from shared.web.access import route
from shared.web.identity import bearer

AnyRequest = Request[Any, Any, Any]

MEDIA_TYPE = "application/problem+json"

RETRY_AFTER = "2"
"""Seconds; about as long as PostgreSQL takes to restart."""

_BY_STATUS: dict[int, type[HeadwayError]] = {
    error.status: error
    for error in (Malformed, Unauthenticated, NotFound, MethodNotAllowed, TooLarge, UnsupportedMediaType, Invalid)
}

_READING = frozenset({"GET", "HEAD"})
"""Methods that store nothing: that PostgreSQL found no space, for a sort say, is no concern of theirs."""

_PASSING = (
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
)
"""Among the driver's internal errors: this server is not the primary any more, or a connection stood still."""

log = structlog.get_logger(__name__)


def reply(error: HeadwayError) -> Response[bytes]:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **error.headers}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooManyRequests | Unavailable):
        headers.setdefault("Retry-After", RETRY_AFTER)
    return Response(encode(problem(error)), status_code=error.status, media_type=MEDIA_TYPE, headers=headers)


def _ours(_request: AnyRequest, error: Exception) -> Response[bytes]:
    return reply(error if isinstance(error, HeadwayError) else HeadwayError())


def _framework(request: AnyRequest, error: Exception) -> Response[bytes]:
    """What Litestar raises: no route, wrong method, unreadable request."""
    if not isinstance(error, HTTPException) or error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _unexpected(request, error)
    ours = _BY_STATUS.get(error.status_code, Malformed)
    # it takes them out of a set, in another order in each process, and counts `websocket` among the methods
    headers = {
        name: ", ".join(sorted(word for word in value.split(", ") if word != "websocket"))
        for name, value in (error.headers or {}).items()
    }
    if ours in {NotFound, MethodNotAllowed} and request.scope["path"].startswith("/api/"):
        # routing comes before guards, but a stranger does not learn which addresses there are
        return _ForTheKnown(reply(ours(headers=headers)))
    # without the framework's own words, which may repeat what the client sent
    return reply(ours(headers=headers))


class _ForTheKnown(Response[bytes]):
    """The reply for whoever has a valid token, and 401 for others. A handler of errors may not wait, but this may."""

    def __init__(self, known: Response[bytes]) -> None:
        super().__init__(b"")
        self._known = known

    def to_asgi_response(self, app: Any, request: AnyRequest, **options: Any) -> Any:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            response = self._known
            try:
                await bearer(request)
            except HeadwayError as error:
                response = reply(error)
            await response.to_asgi_response(app, request, **options)(scope, receive, send)

        return answer


def _database(request: AnyRequest, error: Exception) -> Response[bytes]:
    """PostgreSQL is away or restarting, all connections are in use, or its disk is full."""
    cause = getattr(error, "orig", None) or error
    outage: Outage | None = request.app.state.get("postgresql")
    if outage is not None and _lost(cause):
        outage.begin(cause)
    if outage is None or not outage.away:  # else it has been said
        log.warning("postgresql cannot serve a request", route=route(request.scope), error=type(cause).__name__)
    if isinstance(cause, psycopg.errors.DiskFull) and request.method not in _READING:
        return reply(DiskFull("the disk of the database is full"))
    return reply(Unavailable())


def _lost(cause: BaseException) -> bool:
    """There was no answer, or the end of the connection; not an answer that says no to this one."""
    state = cause.sqlstate if isinstance(cause, psycopg.Error) else "an answer"
    return state is None or state.startswith(("08", "57P"))


def _internal(request: AnyRequest, error: Exception) -> Response[bytes]:
    passing = isinstance(getattr(error, "orig", None) or error, _PASSING)
    return (_database if passing else _unexpected)(request, error)


def _unexpected(request: AnyRequest, error: Exception) -> Response[bytes]:
    log.error("unexpected error", method=request.scope["method"], path=route(request.scope), exc_info=error)
    return reply(HeadwayError())


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    HeadwayError: _ours,
    HTTPException: _framework,
    sqlalchemy.exc.OperationalError: _database,
    sqlalchemy.exc.InterfaceError: _database,
    sqlalchemy.exc.InternalError: _internal,
    sqlalchemy.exc.TimeoutError: _database,
    psycopg.OperationalError: _database,  # COPY goes by the driver's own cursor
    psycopg.InterfaceError: _database,
    psycopg.InternalError: _internal,
    Exception: _unexpected,
}
"""For `Litestar(exception_handlers=…)`; the application's state must hold `settings`, and may hold an Outage as
`postgresql`, which whoever connects for the requests ends.
"""
