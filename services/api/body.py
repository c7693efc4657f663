"""Request bodies: read no further than they may be long, and refused for their type before that."""

from collections.abc import AsyncIterator
from math import isinf
from typing import Any

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.di import NamedDependency
from msgspec import Struct

from shared.auth import Claims
from shared.errors import Malformed, TooLarge, UnsupportedMediaType
from shared.web.validation import convert

ApiRequest = Request[str, Claims, State]
JsonBody = NamedDependency[bytes]
Empty = NamedDependency[None]


class NoFields(Struct, forbid_unknown_fields=True):
    """The body of a request that has nothing to say."""


async def chunks(request: ApiRequest, limit: int) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises TooLarge as soon as that is known, also where no length is announced."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit)
    size = 0
    while True:
        event = await request.receive()
        if event["type"] != "http.request":
            raise Malformed("the request ended early")  # nobody is there to read this
        size += len(event["body"])
        if size > limit:
            raise _too_large(limit)
        if event["body"]:
            yield event["body"]
        if not event["more_body"]:
            return


async def json_body(request: ApiRequest) -> bytes:
    """A dependency: the bytes of a JSON body. Raises UnsupportedMediaType, TooLarge."""
    kind, parameters = request.content_type
    if kind != "application/json" or parameters.get("charset", "utf-8").lower() not in {"utf-8", "utf8"}:
        raise UnsupportedMediaType("expected Content-Type: application/json")
    return await _whole(request)


async def no_body(request: ApiRequest) -> None:
    """A dependency: the request carries nothing, or `{}`. Raises Malformed, Invalid, TooLarge."""
    if body := await _whole(request):
        convert(decode_json(body), NoFields)


def _number(text: str) -> int | float:
    """In JSON `5.0` is an integer, and people's programs write it so."""
    value = float(text)
    if isinf(value):
        raise ValueError("number out of range")
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


_EXACT = 2**53
"""Below this each integer has a float of its own."""

_decode = msgspec.json.Decoder(float_hook=_number).decode


def decode_json(body: bytes) -> Any:
    """What the body says. Raises Malformed."""
    try:
        return _decode(body)
    except UnicodeDecodeError:
        raise Malformed("the body is not UTF-8") from None
    except msgspec.DecodeError as error:
        raise Malformed(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise too_deep() from None


def too_deep() -> Malformed:
    return Malformed("the body is nested too deeply")


async def _whole(request: ApiRequest) -> bytes:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("expected a body without Content-Encoding")
    return b"".join([chunk async for chunk in chunks(request, request.app.state.settings.max_request)])


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the request's body is longer than {limit} bytes")
