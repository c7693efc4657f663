"""The answer to the handshake of a WebSocket that is not to be: an error like any other."""

from litestar.types import Message, Scope, Send

from shared.errors import HeadwayError
from shared.web.problems import reply

_REFUSED = 1008
"""For servers that have no words for more than "no": they answer 403."""


async def deny(scope: Scope, send: Send, error: HeadwayError) -> None:
    messages: list[Message] = [{"type": "websocket.close", "code": _REFUSED, "reason": ""}]
    if "websocket.http.response" in (scope.get("extensions") or {}):
        answer = reply(error)
        headers = [(b"content-type", str(answer.media_type).encode())]
        headers += [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
        messages = [
            {"type": "websocket.http.response.start", "status": error.status, "headers": headers},
            {"type": "websocket.http.response.body", "body": answer.content, "more_body": False},
        ]
    for message in messages:
        await send(message)
