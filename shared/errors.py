"""Every error that a client can meet: one tree, each leaf with its code, HTTP status and fixed title."""

from typing import ClassVar

from msgspec import Struct


class FieldError(Struct, frozen=True):
    """What is wrong with one field; `path` as in `jobs[3].params.path`."""

    path: str
    message: str


class HeadwayError(Exception):
    """The root. `detail` says what happened this time; `headers` go with the reply."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong on our side"

    def __init__(
        self, detail: str = "", *, errors: list[FieldError] | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.errors = errors
        self.headers = headers or {}


class Malformed(HeadwayError):
    code, status, title = "malformed", 400, "The request cannot be read"


class Invalid(HeadwayError):
    """Always carries `errors`: every wrong field, not the first."""

    code, status, title = "invalid", 422, "Some fields are wrong"


class Unauthenticated(HeadwayError):
    code, status, title = "unauthenticated", 401, "A valid token is needed"


class Forbidden(HeadwayError):
    code, status, title = "forbidden", 403, "The token does not allow this"


class NotFound(HeadwayError):
    code, status, title = "not_found", 404, "There is no such thing, or it is not yours"


class MethodNotAllowed(HeadwayError):
    code, status, title = "method_not_allowed", 405, "This address does not take that method"


class Conflict(HeadwayError):
    code, status, title = "conflict", 409, "That makes no sense in the present state"


class TooLarge(HeadwayError):
    code, status, title = "too_large", 413, "Too large"


class UnsupportedMediaType(HeadwayError):
    code, status, title = "unsupported_media_type", 415, "This content type is not accepted"


class TooManyRequests(HeadwayError):
    code, status, title = "too_many_requests", 429, "Too many at once"


class Unavailable(HeadwayError):
    """PostgreSQL cannot be reached, or this process is leaving: worth another try soon."""

    code, status, title = "unavailable", 503, "Not available at the moment"


class DiskFull(HeadwayError):
    code, status, title = "disk_full", 507, "No space left to store this"


class Problem(Struct, omit_defaults=True):
    """RFC 9457 `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = None


def problem(error: HeadwayError) -> Problem:
    return Problem(f"/problems/{error.code}", error.title, error.status, error.detail, error.errors)
