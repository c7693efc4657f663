"""What is said over a WebSocket, for programs and for the OpenAPI document: docs/protocol.md says it in words."""

from typing import Any, Literal

from msgspec import Struct

from shared.events import EventName, FeedEventName, SocketErrorCode


class SocketQuery(Struct, forbid_unknown_fields=True):
    ticket: str = ""


class Auth(Struct, frozen=True, tag_field="type", tag="auth", forbid_unknown_fields=True):
    token: str


class Subscribe(Struct, frozen=True, tag_field="type", tag="subscribe", forbid_unknown_fields=True):
    topic: str
    since: str | None = None
    """The event id to go on from."""


class Unsubscribe(Struct, frozen=True, tag_field="type", tag="unsubscribe", forbid_unknown_fields=True):
    topic: str


Command = Auth | Subscribe | Unsubscribe


class Delivery(Struct):
    """`data` is that of the event of the same name over Server-Sent Events."""

    type: EventName | FeedEventName
    topic: str | None
    id: str | None
    data: dict[str, Any]


class SocketError(Struct):
    """`topic` None: it concerns the connection, or what could not be read."""

    type: Literal["error"]
    topic: str | None
    code: SocketErrorCode
    message: str


MESSAGES = (Auth, Subscribe, Unsubscribe, Delivery, SocketError)
"""Of both directions."""
