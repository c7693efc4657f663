"""`Idempotency-Key`: the same request sent twice makes one batch, or adds its jobs once."""

import hashlib
import re
from uuid import UUID

import msgspec
from msgspec import Struct
from sqlalchemy import Connection

from services.api.body import ApiRequest, decode_json, too_deep
from shared import queries
from shared.creation import IDEMPOTENCY_TTL
from shared.errors import Conflict, FieldError
from shared.web.validation import invalid

HEADER = "Idempotency-Key"

_LONGEST = 255
"""Characters. A key stands in an index, whose entries PostgreSQL limits."""

FORM = re.compile(rf"^[!-~]([ -~]{{0,{_LONGEST - 2}}}[!-~])?$")


class Key(Struct, frozen=True):
    owner: str
    text: str
    body: bytes
    """A digest of what was asked for, whatever the order of its members and its white space."""


def read_key(request: ApiRequest, json: bytes, what: str = "") -> Key | None:
    """None if the request has none. `what` is asked for besides the body, where that does not say it all.

    Raises Invalid, and Malformed for a body that is no JSON.
    """
    given = request.headers.getall(HEADER, [])
    if not given:
        return None
    if len(given) > 1:
        raise invalid([FieldError(HEADER, "is given twice")])
    text = given[0]
    if not FORM.fullmatch(text):
        raise invalid([FieldError(HEADER, f"expected 1 to {_LONGEST} printable ASCII characters")])
    try:
        canonical = msgspec.json.encode(decode_json(json), order="sorted")
    except RecursionError:
        raise too_deep() from None
    return Key(request.auth.owner, text, hashlib.sha256(what.encode() + canonical).digest())


def find(connection: Connection, key: Key) -> UUID | None:
    """The batch that was made, or got its jobs, under this key. Raises Conflict if that was for another request."""
    row = connection.execute(
        queries.FIND_KEY, {"owner": key.owner, "key": key.text, "ttl": IDEMPOTENCY_TTL}
    ).one_or_none()
    if row is None:
        return None
    if bytes(row.body) != key.body:
        raise Conflict(f"this {HEADER} was used for another request")
    batch_id: UUID = row.batch_id
    return batch_id


def take(connection: Connection, key: Key, batch_id: UUID) -> UUID | None:
    """Notes that `batch_id` is made, or gets jobs, under this key. If that was done already, or is just now: waits for
    it, and returns which one.

    Committed or gone together with the batch itself, so a process that dies between leaves neither. Raises Conflict.
    """
    parameters = {"owner": key.owner, "key": key.text, "body": key.body, "batch_id": batch_id, "ttl": IDEMPOTENCY_TTL}
    if connection.execute(queries.TAKE_KEY, parameters).one_or_none() is not None:
        return None
    return find(connection, key)
