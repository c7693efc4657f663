"""Every error leaves as `application/problem+json` (RFC 9457), the framework's and the database's own included."""

from http import HTTPStatus
from typing import Any

import psycopg
import sqlalchemy.exc
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from shared.errors import (
    HeadwayError,
    Invalid,
    Malformed,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
    problem,
)
from shared.events import encode
from shared.web.identity import bearer

AnyRequest = Request[Any, Any, Any]

MEDIA_TYPE = "application/problem+json"

RETRY_AFTER = "2"
"""Seconds; about as long as PostgreSQL takes to restart."""

_BY_STATUS: dict[int, type[HeadwayError]] = {
    error.status: error
    for error in (Malformed, Unauthenticated, NotFound, MethodNotAllowed, TooLarge, UnsupportedMediaType, Invalid)
}

log = structlog.get_logger(__name__)


def reply(error: HeadwayError) -> Response[bytes]:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **error.headers}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return Response(encode(problem(error)), status_code=error.status, media_type=MEDIA_TYPE, headers=headers)


def _ours(_request: AnyRequest, error: Exception) -> Response[bytes]:
    return reply(error if isinstance(error, HeadwayError) else HeadwayError())


def _framework(request: AnyRequest, error: Exception) -> Response[bytes]:
    """What Litestar raises: no route, wrong method, unreadable request."""
    if not isinstance(error, HTTPException) or error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _unexpected(request, error)
    ours = _BY_STATUS.get(error.status_code, Malformed)
    if ours in {NotFound, MethodNotAllowed} and request.scope["path"].startswith("/api/"):
        # routing comes before guards, but a stranger does not learn which addresses there are
        try:
            bearer(request.app.state.settings, request)
        except Unauthenticated as unauthenticated:
            return reply(unauthenticated)
    detail = error.detail if ours is Malformed else ""
    return reply(ours(detail, headers=error.headers))


def _database(request: AnyRequest, error: Exception) -> Response[bytes]:
    """PostgreSQL is away or restarting, or all connections are in use."""
    log.warning("postgresql is not available", path=request.scope["path"], error=type(error).__name__)
    return reply(Unavailable(headers={"Retry-After": RETRY_AFTER}))


def _unexpected(request: AnyRequest, error: Exception) -> Response[bytes]:
    # the path has no query, which may hold a ticket
    log.error("unexpected error", method=request.scope["method"], path=request.scope["path"], exc_info=error)
    return reply(HeadwayError())


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    HeadwayError: _ours,
    HTTPException: _framework,
    sqlalchemy.exc.OperationalError: _database,
    sqlalchemy.exc.InterfaceError: _database,
    sqlalchemy.exc.TimeoutError: _database,
    psycopg.OperationalError: _database,  # COPY goes by the driver's own cursor
    psycopg.InterfaceError: _database,
    Exception: _unexpected,
}
"""For `Litestar(exception_handlers=…)`; the application's state must hold `settings`."""
