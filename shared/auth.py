"""Tokens, tickets and report tokens: who is asking, and what they may do. Nothing here may ever be logged."""

import math
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import jwt
from jwt import PyJWK
from jwt.types import Options
from msgspec import Struct

from shared.errors import Unauthenticated
from shared.keys import Keys
from shared.settings import Settings, SettingsError

TICKET_TTL = 24 * 3600
"""Seconds; never longer than the token that got it."""

REPORT_TOKEN_TTL = 7 * 24 * 3600
"""Seconds. Work may go on for longer than the token is good that submitted it; and another can be had at any time."""

SCOPES = frozenset({"read", "write", "report", "admin"})

ADMIN = "admin"
"""What opens the others' doors too, and those of what is nobody's own: who has it must have been given it."""

NOT_BEFORE_LEEWAY = 30
"""Seconds. The issuer's clock may be ahead of ours, and a token that has just been issued is good at once. There is no
such leeway after `exp`: a token has ended when it says so, here as in the stream that it opened."""

_TICKET_AUDIENCE = "headway-ticket"
_REPORT_AUDIENCE = "headway-report"
_REPORT_TYPE = "headway-report+jwt"
"""In the header of a report token, so that it is told from a user's, which comes in the same place."""
_ALGORITHM = "HS256"
# A JWT is short; a long one is an attempt to make us work.
_LONGEST = 8 * 1024
# In characters. An owner stands in an index, whose entries PostgreSQL limits.
_LONGEST_OWNER = 255


class Claims(Struct, frozen=True):
    """Who is asking. `scope` None: everything that is the owner's. `expires` in seconds since the Unix epoch.

    `batch_id`: of a report token, which is good for nothing but this batch.
    """

    owner: str
    scope: frozenset[str] | None
    expires: float
    batch_id: UUID | None = None

    def may_see(self, batch_id: UUID) -> bool:
        """Whether it could be one of this batch; whose that is, PostgreSQL knows."""
        return self.batch_id is None or self.batch_id == batch_id

    def may(self, scope: str) -> bool:
        if self.scope is None:
            return scope != ADMIN
        return scope in self.scope or ADMIN in self.scope


class TicketClaims(Struct, frozen=True):
    owner: str
    batch_id: UUID
    expires: float


def issue_token(settings: Settings, owner: str, *, ttl: float = 3600, scope: str | None = None) -> str:
    """A user's token. `ttl` in seconds; `scope` as in the protocol, space-separated. SettingsError without a secret."""
    claims: dict[str, Any] = {"sub": owner, "iss": settings.issuer, "aud": settings.audience, "exp": time.time() + ttl}
    if scope is not None:
        claims["scope"] = scope
    return jwt.encode(claims, _secret(settings), algorithm=_ALGORITHM)


async def check_token(settings: Settings, keys: Keys | None, token: str) -> Claims:
    """As `verify_token`, with the key that the token names; `keys` is None where there is a secret.

    Raises Unavailable where that key is not known, and whoever knows cannot be asked.
    """
    if keys is None:
        return verify_token(settings, token)
    key_id = _key_id(settings, token)
    return verify_token(settings, token, keys.known(key_id) or await keys.find(key_id))


def verify_token(settings: Settings, token: str, key: PyJWK | None = None) -> Claims:
    """Raises Unauthenticated, with a sentence that does not repeat the token. `key`: None for the secret."""
    algorithm = _ALGORITHM if key is None else settings.jwks_algorithm
    required = ["sub", "exp", "iss", "aud"]
    payload = _decode(token, key or _secret(settings), algorithm, settings.audience, settings.issuer, required)
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
    return _decode_own(settings, ticket, _TICKET_AUDIENCE, "ticket")


def issue_report_token(settings: Settings, owner: str, batch_id: UUID) -> tuple[str, datetime]:
    """A token to report the progress of one batch's jobs, and when it ends."""
    expires = int(time.time() + REPORT_TOKEN_TTL)
    payload = {"sub": owner, "batch": str(batch_id), "aud": _REPORT_AUDIENCE, "exp": expires}
    token = jwt.encode(payload, settings.ticket_key, algorithm=_ALGORITHM, headers={"typ": _REPORT_TYPE})
    return token, datetime.fromtimestamp(expires, UTC)


def is_report_token(token: str) -> bool:
    """Whether it says so of itself; `verify_report_token` tells whether it is one."""
    try:
        return len(token) <= _LONGEST and jwt.get_unverified_header(token).get("typ") == _REPORT_TYPE
    except jwt.InvalidTokenError:
        return False


def verify_report_token(settings: Settings, token: str) -> Claims:
    """Raises Unauthenticated."""
    claims = _decode_own(settings, token, _REPORT_AUDIENCE, "report token")
    return Claims(claims.owner, frozenset({"read", "report"}), claims.expires, claims.batch_id)


def _decode_own(settings: Settings, text: str, audience: str, name: str) -> TicketClaims:
    """What we signed ourselves, by either key. Raises Unauthenticated, with a sentence that calls it `name`."""
    required = ["sub", "exp", "aud", "batch"]
    refusal = ""
    for key in filter(None, (settings.ticket_key, settings.ticket_key_old)):
        try:
            payload = _decode(text, key, _ALGORITHM, audience, None, required)
            break
        except Unauthenticated as error:
            refusal = error.detail.replace("token", name)
    else:
        raise Unauthenticated(refusal)
    try:
        return TicketClaims(payload["sub"], UUID(payload["batch"]), float(payload["exp"]))
    except (ValueError, AttributeError, TypeError):
        raise Unauthenticated(f"the {name} is not valid") from None


def _secret(settings: Settings) -> str:
    if settings.secret is None:
        raise SettingsError("HEADWAY_SECRET is not set: tokens are issued elsewhere")
    return settings.secret


def _key_id(settings: Settings, token: str) -> str | None:
    """The name of the key that a token says it was signed with. Raises Unauthenticated for another algorithm's."""
    _refuse_long(token)
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        raise Unauthenticated("the token is not valid") from None
    if header.get("alg") != settings.jwks_algorithm:
        raise Unauthenticated(f"the token is not signed with {settings.jwks_algorithm}")
    return header.get("kid")


def _decode(
    token: str, key: str | PyJWK, algorithm: str, audience: str, issuer: str | None, required: list[str]
) -> dict[str, Any]:
    _refuse_long(token)
    # `iat` is not looked at: that a token was issued in our future means that a clock is wrong, and no more
    options: Options = {"require": required, "verify_iat": False, "verify_nbf": False}
    try:
        payload: dict[str, Any] = jwt.decode(
            token, key, algorithms=[algorithm], audience=audience, issuer=issuer, options=options
        )
        expires, starts = float(payload["exp"]), float(payload.get("nbf", 0))
    except jwt.ExpiredSignatureError:
        raise Unauthenticated("the token has expired") from None
    except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError):
        raise Unauthenticated("the token is not valid") from None
    if not (math.isfinite(expires) and starts <= time.time() + NOT_BEFORE_LEEWAY):
        raise Unauthenticated("the token is not valid yet")
    owner = payload["sub"]
    if not owner or len(owner) > _LONGEST_OWNER or not owner.isprintable():
        raise Unauthenticated("the token names no owner that could be stored")
    return payload


def _refuse_long(token: str) -> None:
    if len(token) > _LONGEST:
        raise Unauthenticated("the token is too long")
