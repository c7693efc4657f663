"""Query parameters, all errors at once; and the form of every list: pages with an opaque cursor."""

import base64
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct

from shared.errors import FieldError, Malformed
from shared.web.identity import Connection
from shared.web.validation import invalid, unstorable, wrong_fields

T = TypeVar("T")
Query = TypeVar("Query", bound=Struct)

_MOST = 50
"""Parameters of one request; no address of ours knows half as many."""


class NoParameters(Struct, forbid_unknown_fields=True):
    """For an address that takes none."""


class Paging(Struct, forbid_unknown_fields=True):
    """To be inherited by the parameters of a list."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 50
    cursor: str | None = None


class Page(Struct, Generic[T], rename="camel"):
    items: list[T]
    next_cursor: str | None = None


def read_query(connection: Connection, type_: type[Query]) -> Query:
    """The query as `type_`, a flat struct that forbids unknown fields. Raises Invalid, naming every wrong parameter."""
    try:
        pairs = parse_qsl(
            connection.scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST
        )
    except ValueError:
        raise Malformed(f"more than {_MOST} query parameters") from None
    values = dict(pairs)
    errors = list(unstorable(values, ""))
    errors += [FieldError(name, "is given twice") for name in values if sum(name == other for other, _ in pairs) > 1]
    errors += wrong_fields(values, type_, "", strict=False)
    if not errors:
        query = msgspec.convert(values, type_, strict=False)
        # the text `null` stands for no value in some types: whoever writes it is not understood
        fields = msgspec.structs.fields(type_)
        given = [field for field in fields if field.encode_name in values]
        errors = [FieldError(field.encode_name, "is null") for field in given if getattr(query, field.name) is None]
    if errors:
        raise invalid(errors)
    return query


def encode_cursor(place: str, value: Any) -> str:
    """A cursor after `value` in the list `place`, which is checked when it comes back."""
    return base64.urlsafe_b64encode(msgspec.json.encode((place, value))).decode().rstrip("=")


def decode_cursor(place: str, cursor: str, type_: type[T]) -> T:
    """The value. Raises Malformed for a cursor that is none of ours, or another list's."""
    try:
        decoded = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        where, value = msgspec.json.decode(decoded, type=tuple[str, type_])  # type: ignore[valid-type]
    except (ValueError, RecursionError):  # msgspec's and binascii's errors are ValueErrors
        where, value = "", None
    if where != place or value is None:
        raise Malformed("the cursor is not one that this list gave out")
    return value
