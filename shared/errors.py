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
    when: ClassVar[str] = "our mistake; the log has more"
    """As docs/protocol.md, the OpenAPI document and the page `/problems/<code>` say it."""

    def __init__(
        self, detail: str = "", *, errors: list[FieldError] | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.errors = errors
        self.headers = headers or {}


class Malformed(HeadwayError):
    code, status, title = "malformed", 400, "The request cannot be read"
    when = (
        "the body is no JSON or no multipart, or is cut off; a number is out of range; a cursor is not one of this list"
    )


class Invalid(HeadwayError):
    """Always carries `errors`: every wrong field, not the first."""

    code, status, title = "invalid", 422, "Some fields are wrong"
    when = "wrong, missing or unknown fields or query parameters"


class Unauthenticated(HeadwayError):
    code, status, title = "unauthenticated", 401, "A valid token is needed"
    when = "no token, or one that is not valid (any more); with `WWW-Authenticate: Bearer`"


class Forbidden(HeadwayError):
    code, status, title = "forbidden", 403, "The token does not allow this"
    when = "the token is valid but has not the scope"


class NotFound(HeadwayError):
    code, status, title = "not_found", 404, "There is no such thing, or it is not yours"
    when = "there is no such thing, or it is somebody else's: it cannot be told which"


class MethodNotAllowed(HeadwayError):
    code, status, title = "method_not_allowed", 405, "This address does not take that method"
    when = "with `Allow`"


class Conflict(HeadwayError):
    code, status, title = "conflict", 409, "That makes no sense in the present state"
    when = "it makes no sense in the present state"


class TooLarge(HeadwayError):
    code, status, title = "too_large", 413, "Too large"
    when = "the body or the file is longer than allowed"


class AddressTooLong(HeadwayError):
    code, status, title = "address_too_long", 414, "The address is too long"
    when = "the path with its query is longer than allowed; the connection is closed"


class UnsupportedMediaType(HeadwayError):
    code, status, title = "unsupported_media_type", 415, "This content type is not accepted"
    when = "another `Content-Type`, or a `Content-Encoding`"


class TooManyRequests(HeadwayError):
    code, status, title = "too_many_requests", 429, "Too many at once"
    when = "too many streams, to clients that do not take events"


class HeadersTooLarge(HeadwayError):
    code, status, title = "headers_too_large", 431, "The headers are too large"
    when = "there are too many headers, or they are too long together; the connection is closed"


class Unavailable(HeadwayError):
    """PostgreSQL, the store of files or the keys of tokens cannot be reached, or this process is leaving: worth another
    try soon.
    """

    code, status, title = "unavailable", 503, "Not available at the moment"
    when = (
        "the database, the store of files or the keys of tokens cannot be reached, or the server is leaving; "
        "with `Retry-After` in seconds"
    )


class DiskFull(HeadwayError):
    code, status, title = "disk_full", 507, "No space left to store this"
    when = "no space for a file, or in the database"


class Problem(Struct, omit_defaults=True):
    """RFC 9457 `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = None


def all_errors() -> list[type[HeadwayError]]:
    """Every error that there is, by status."""
    return sorted((HeadwayError, *HeadwayError.__subclasses__()), key=lambda error: error.status)


def problem_type(error: HeadwayError | type[HeadwayError]) -> str:
    return f"/problems/{error.code}"


def problem(error: HeadwayError) -> Problem:
    return Problem(problem_type(error), error.title, error.status, error.detail, error.errors)
