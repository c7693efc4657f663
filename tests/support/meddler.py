"""A gateway that does one thing wrong: a small reverse proxy, for `headway doctor` to find out."""

import gzip
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
from msgspec import Struct

_OURS = {"connection", "transfer-encoding", "content-length", "date", "keep-alive", "host"}


class Wrongs(Struct, frozen=True):
    """What it does to what passes."""

    holds_back: bool = False
    """Answers go on when they are whole."""
    compresses: bool = False
    without: tuple[str, ...] = ()
    """Headers of answers, in lower case, that it takes out."""
    date: str | None = None
    """What it says the time is."""
    cuts_after: float | None = None
    """Seconds of silence after which it ends an answer."""
    answers: Callable[[str], int | None] = lambda _path: None
    """The status of what it does not pass on."""


class Meddler:
    """As an ASGI application. WebSockets it knows nothing of: to it their handshakes are requests like others."""

    def __init__(self, target: str, wrongs: Wrongs) -> None:
        self._target = target
        self._wrongs = wrongs

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            timeout = httpx.Timeout(30, read=self._wrongs.cuts_after or 30)
            self._client = httpx.AsyncClient(base_url=self._target, timeout=timeout, trust_env=False)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._client.aclose()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "http":
            await self._pass_on(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": ""})

    async def _pass_on(self, scope: Any, receive: Any, send: Any) -> None:
        status = self._wrongs.answers(scope["path"])
        if status is not None:
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        async with self._asked(scope, receive) as answer:
            headers = [
                (name.encode(), value.encode())
                for name, value in answer.headers.multi_items()
                if name not in _OURS and name not in self._wrongs.without
            ]
            if self._wrongs.date:
                headers.append((b"date", self._wrongs.date.encode()))
            if self._wrongs.compresses:
                headers.append((b"content-encoding", b"gzip"))
            await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
            async for piece in self._pieces(answer):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pieces(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        pieces = self._until_silence(answer)
        if self._wrongs.holds_back:
            whole = b"".join([piece async for piece in pieces])
            yield gzip.compress(whole) if self._wrongs.compresses else whole
        elif self._wrongs.compresses:
            compressor = zlib.compressobj(wbits=31)
            async for piece in pieces:
                yield compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH)
            yield compressor.flush()
        else:
            async for piece in pieces:
                yield piece

    @staticmethod
    async def _until_silence(answer: httpx.Response) -> AsyncIterator[bytes]:
        try:
            async for piece in answer.aiter_raw():
                yield piece
        except httpx.ReadTimeout:
            return

    @asynccontextmanager
    async def _asked(self, scope: Any, receive: Any) -> AsyncIterator[httpx.Response]:
        body = b""
        announced = any(name in {b"content-length", b"transfer-encoding"} for name, _ in scope["headers"])
        more = announced
        while more:
            event = await receive()
            body += event.get("body", b"")
            more = event.get("more_body", False)
        query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        given = [(name, value) for name, value in scope["headers"] if name.decode() not in _OURS]
        given.append((b"host", urlsplit(self._target).netloc.encode()))
        request = self._client.build_request(scope["method"], scope["path"] + query, headers=given, content=body)
        answer = await self._client.send(request, stream=True)
        try:
            yield answer
        finally:
            await answer.aclose()
