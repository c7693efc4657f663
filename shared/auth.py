"""Tokens and tickets: who is asking, and what they may see. Nothing here may ever be logged."""

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import jwt
from msgspec import Struct

from shared.errors import Unauthenticated
from shared.settings import Settings

TICKET_TTL = 24 * 3600
"""Seconds; never longer than the token that got it."""

SCOPES = frozenset({"read", "write", "report", "admin"})

_TICKET_AUDIENCE = "headway-ticket"
_ALGORITHM = "HS256"
# A JWT is short; a long one is an attempt to make us work.
_LONGEST = 8 * 1024
# In characters. An owner stands in an index, whose entries PostgreSQL limits.
_LONGEST_OWNER = 255


class Claims(Struct, frozen=True):
    """Who is asking. `scope` None: everything that is the owner's. `expires` in seconds since the Unix epoch."""

    owner: str
    scope: frozenset[str] | None
    expires: float

    def may(self, scope: str) -> bool:
        return self.scope is None or scope in self.scope or "admin" in self.scope


class TicketClaims(Struct, frozen=True):
    owner: str
    batch_id: UUID
    expires: float


def issue_token(settings: Settings, owner: str, *, ttl: float = 3600, scope: str | None = None) -> str:
    """A user's token. `ttl` in seconds; `scope` as in the protocol, space-separated."""
    claims: dict[str, Any] = {"sub": owner, "iss": settings.issuer, "aud": settings.audience, "exp": time.time() + ttl}
    if scope is not None:
        claims["scope"] = scope
    return jwt.encode(claims, settings.secret, algorithm=_ALGORITHM)


def verify_token(settings: Settings, token: str) -> Claims:
    """Raises Unauthenticated, with a sentence that does not repeat the token."""
    payload = _decode(token, settings.secret, settings.audience, settings.issuer, ["sub", "exp", "iss", "aud"])
    scope = payload.get("scope")
    if scope is not None and not isinstance(scope, str):
        raise Unauthenticated("the token's scope is not a string")
    return Claims(payload["sub"], None if scope is None else frozenset(scope.split()), float(payload["exp"]))


def issue_ticket(settings: Settings, claims: Claims, batch_id: UUID) -> tuple[str, datetime]:
    """A ticket to read one batch, and when it ends."""
    expires = int(min(time.time() + TICKET_TTL, claims.expires))
    payload = {"sub": claims.owner, "batch": str(batch_id), "aud": _TICKET_AUDIENCE, "exp": expires}
    return jwt.encode(payload, settings.ticket_key, algorithm=_ALGORITHM), datetime.fromtimestamp(expires, UTC)


def verify_ticket(settings: Settings, ticket: str) -> TicketClaims:
    """Raises Unauthenticated."""
    payload = _decode(ticket, settings.ticket_key, _TICKET_AUDIENCE, None, ["sub", "exp", "aud", "batch"])
    try:
        return TicketClaims(payload["sub"], UUID(payload["batch"]), float(payload["exp"]))
    except (ValueError, AttributeError, TypeError):
        raise Unauthenticated("the ticket is not valid") from None


def _decode(token: str, key: str, audience: str, issuer: str | None, required: list[str]) -> dict[str, Any]:
    if len(token) > _LONGEST:
        raise Unauthenticated("the token is too long")
    try:
        payload: dict[str, Any] = jwt.decode(
            token, key, algorithms=[_ALGORITHM], audience=audience, issuer=issuer, options={"require": required}
        )
    except jwt.ExpiredSignatureError:
        raise Unauthenticated("the token has expired") from None
    except jwt.InvalidTokenError:
        raise Unauthenticated("the token is not valid") from None
    owner = payload["sub"]
    if not owner or len(owner) > _LONGEST_OWNER or not owner.isprintable():
        raise Unauthenticated("the token names no owner that could be stored")
    return payload
