"""Between a reader and the stream service, as a proxy: notes what is asked, and passes answers on in small pieces."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from urllib.parse import urlsplit

from msgspec import Struct

_HOST = "127.0.0.1"


class Request(Struct, frozen=True):
    """One without a body. `at`: by the monotonic clock."""

    line: str
    headers: dict[str, str]
    """Names in lower case."""
    at: float


class Relay:
    """`target` and `piece` may be set at any time."""

    def __init__(self, target: str, piece: int = 2**16) -> None:
        self.target = target
        """The address that it passes on to; empty: whoever comes is sent away without an answer."""
        self.piece = piece
        """Bytes of an answer that leave together, at most."""
        self.url = ""
        self.requests: list[Request] = []
        self._connections: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """All connections end where they are."""
        self._loop.call_soon_threadsafe(self._cut)

    @property
    def streams(self) -> list[Request]:
        """The requests for streams."""
        return [request for request in tuple(self.requests) if "/stream" in request.line]

    def _cut(self) -> None:
        for connection in self._connections:
            connection.cancel()

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._accept, _HOST, 0)
        self.url = f"http://{_HOST}:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._server.close()
        self._cut()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            # a server that is away is away for the client as well, and so it is when we are told to cut
            with suppress(OSError, asyncio.CancelledError):
                await self._pass_on(reader, writer)
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.target:
            return
        target = urlsplit(self.target)
        from_server, to_server = await asyncio.open_connection(target.hostname, target.port)
        asking = asyncio.create_task(self._ask(reader, to_server))
        try:
            while data := await from_server.read(2**16):
                for start in range(0, len(data), self.piece):
                    writer.write(data[start : start + self.piece])
                    await writer.drain()
                    if self.piece < 100:  # each on a way of its own
                        await asyncio.sleep(0)
            writer.close()
            await writer.wait_closed()
        finally:
            asking.cancel()
            to_server.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        unread = b""
        while data := await reader.read(2**16):
            unread += data
            while b"\r\n\r\n" in unread:
                head, _, unread = unread.partition(b"\r\n\r\n")
                line, *fields = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
                self.requests.append(Request(line, headers, time.monotonic()))
            to_server.write(data)
            await to_server.drain()
        to_server.transport.abort()


@contextmanager
def relayed(target: str, piece: int = 2**16) -> Iterator[Relay]:
    """It runs, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="relay")
    thread.start()
    relay = Relay(target, piece)
    try:
        asyncio.run_coroutine_threadsafe(relay.open(), loop).result(10)
        try:
            yield relay
        finally:
            asyncio.run_coroutine_threadsafe(relay.close(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
