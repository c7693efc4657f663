"""A file that is made while it is sent: as fast as its reader takes it, a piece at a time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import structlog
from litestar import Response
from litestar.types import ASGIApp, Receive, Scope, Send
from sqlalchemy.exc import SQLAlchemyError

from shared.errors import NotFound
from shared.web.departure import departed

log = structlog.get_logger(__name__)


class Download(Response[bytes]):
    """`name` is plain ASCII. What goes wrong before the first piece is answered as an error; later the file is cut."""

    def __init__(self, pieces: AsyncIterator[bytes], name: str) -> None:
        super().__init__(b"")
        self._pieces = pieces
        self._head = {
            "content-type": "text/plain; charset=utf-8",
            "content-disposition": f'attachment; filename="{name}"',
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
        }

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
        except (NotFound, SQLAlchemyError) as error:
            # without the last chunk the server closes the connection, and the client knows that there was more
            log.warning("a download is cut off", error=type(error).__name__)
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
