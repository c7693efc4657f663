"""A file that is made or read while it is sent: as fast as its reader takes it, a piece at a time."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import structlog
from litestar import Response
from litestar.types import ASGIApp, Receive, Scope, Send
from sqlalchemy.exc import SQLAlchemyError

from shared.errors import NotFound, Unavailable
from shared.web.departure import departed

TEXT = "text/plain; charset=utf-8"

_UNQUOTABLE = re.compile(r"[^\w !#$&+.^`{}~()\[\]@,;=-]", re.ASCII)
"""Besides what is not ASCII: quotes, backslashes, percent signs, and what file systems know better."""

log = structlog.get_logger(__name__)


class Download(Response[bytes]):
    """What goes wrong before the first piece is answered as an error; later the file is cut."""

    def __init__(
        self, pieces: AsyncIterator[bytes], name: str, *, content_type: str = TEXT, size: int | None = None
    ) -> None:
        """`size` in bytes, where it is known."""
        super().__init__(b"")
        self._pieces = pieces
        self._head = {
            "content-type": content_type,
            "content-disposition": disposition(name),
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            # opened all the same, a page that somebody's handler made has no part in ours
            "content-security-policy": "sandbox",
        }
        if size is not None:
            self._head["content-length"] = str(size)

    def to_asgi_response(self, app: Any, request: Any, **options: Any) -> ASGIApp:  # type: ignore[override]  # noqa: ARG002
        return self._send

    async def _send(self, _scope: Scope, receive: Receive, send: Send) -> None:
        piece = await anext(self._pieces, None)
        gone = asyncio.get_running_loop().create_task(departed(receive))
        headers = [(name.encode(), value.encode()) for name, value in self._head.items()]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while piece is not None and not gone.done():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await anext(self._pieces, None)
        except (NotFound, Unavailable, OSError, SQLAlchemyError) as error:
            # without the last chunk the server closes the connection, and the client knows that there was more
            log.warning("a download is cut off", error=type(error).__name__)
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()


def disposition(name: str) -> str:
    """To be saved, under this name: in plain ASCII for all, and as it is for those who read RFC 8187."""
    plain = _UNQUOTABLE.sub("_", name)
    exact = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{exact}'
