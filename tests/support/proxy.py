"""Between our services and PostgreSQL: a connection is cut at a chosen statement, and so its outcome is not known."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Literal, NamedTuple

from shared.database import connect_url

_HOST = "127.0.0.1"
_READY = b"Z\0\0\0\5"
"""All but the last byte of the message with which the server ends its answers."""


_TURNS = 10
"""Of the loop, within which whoever was just accepted is known."""


class Statement(NamedTuple):
    sql: bytes
    values: bytes


Cut = Literal["before", "after"]
"""PostgreSQL never hears of the statement; or it answers, and nobody hears that."""

Stop = Literal["stopped before", "stopped after"]
"""PostgreSQL, or whoever asked it, hears nothing more until `go_on`. Nothing is lost."""

Choose = Callable[[Sequence[Statement]], Cut | Stop | None]
"""Is given a transaction so far, its last statement being on its way."""


def _nowhere(_transaction: Sequence[Statement]) -> None:
    return None


class Proxy:
    """`choose` may be set at any time; it is called by one thread."""

    def __init__(self, database_url: str) -> None:
        self.choose: Choose = _nowhere
        self.url = ""
        self.going = asyncio.Event()
        """Set when those who are stopped now may go on."""
        self._database = connect_url(database_url)
        self._connections: set[asyncio.Task[None]] = set()

    def go_on(self) -> None:
        """All who are stopped."""
        self._loop.call_soon_threadsafe(self._go_on)

    def _go_on(self) -> None:
        going, self.going = self.going, asyncio.Event()
        going.set()

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._accept, _HOST, 0)
        port = self._server.sockets[0].getsockname()[1]
        plain = self._database.set(drivername="postgresql", host=_HOST, port=port)
        plain = plain.update_query_dict({"sslmode": "disable", "gssencmode": "disable"})
        self.url = plain.render_as_string(hide_password=False)

    async def close(self) -> None:
        self._server.close()
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            server = await asyncio.open_connection(self._database.host or _HOST, self._database.port or 5432)
            await _Connection(self, (reader, writer), server).run()
        except OSError:
            pass  # the server is away, for the client as well
        finally:
            writer.transport.abort()
            self._connections.discard(task)


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    def __init__(self, proxy: Proxy, client: Ends, server: Ends) -> None:
        self._proxy = proxy
        self._from_client, self._to_client = client
        self._from_server, self._to_server = server
        self._prepared: dict[bytes, bytes] = {}
        self._transaction: list[Statement] = []
        self._mute = False
        """What the server says from now on is not passed on."""
        self._answered = asyncio.Event()
        self._going = asyncio.Event()
        """Until it is set, nothing that the server says is passed on."""
        self._going.set()

    async def run(self) -> None:
        """Until either end, or we, have had enough."""
        both = [asyncio.create_task(self._ask()), asyncio.create_task(self._answer())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            self._to_server.transport.abort()

    async def _ask(self) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            await self._forward(b"", await self._from_client.readexactly(4))  # who it is
            while True:
                kind, size = await self._from_client.readexactly(1), await self._from_client.readexactly(4)
                if await self._forward(kind, size) == "before":
                    return
                if self._mute and kind in b"QS":  # only then the server begins to answer
                    await self._answered.wait()
                    return

    async def _forward(self, kind: bytes, size: bytes) -> Cut | Stop | None:
        """One message of the client's, unless the connection is to be cut before it."""
        body = await self._from_client.readexactly(int.from_bytes(size) - len(size))
        cut: Cut | Stop | None = None
        if (statement := self._statement(kind, body)) is not None:
            if statement.sql.startswith(b"BEGIN"):
                self._transaction = []
            self._transaction.append(statement)
            cut = self._proxy.choose(self._transaction)
        self._mute = self._mute or cut == "after"
        if cut in {"stopped before", "stopped after"}:
            self._going = self._proxy.going
        if cut == "stopped before":
            await self._going.wait()
        if cut != "before":
            self._to_server.write(kind + size + body)
            await self._to_server.drain()
        return cut

    def _statement(self, kind: bytes, body: bytes) -> Statement | None:
        """What this message is to have done, if anything."""
        if kind == b"Q":
            return Statement(body.rstrip(b"\0"), b"")
        first, *rest = body.split(b"\0", 2) if kind in {b"P", b"B"} else [b""]
        if kind == b"P":
            self._prepared[first] = rest[0]
        if kind == b"B":
            return Statement(self._prepared[rest[0]], rest[1])
        return None

    async def _answer(self) -> None:
        last = b""
        with suppress(OSError):
            while data := await self._from_server.read(2**16):
                await self._going.wait()
                if not self._mute:
                    self._to_client.write(data)
                    await self._to_client.drain()
                last = (last + data)[-len(_READY) - 1 :]
                if self._mute and last.startswith(_READY):
                    self._answered.set()
                    return


@contextmanager
def proxied(database_url: str) -> Iterator[Proxy]:
    """It runs, in a thread of its own. The database must be reached by TCP."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="proxy")
    thread.start()
    proxy = Proxy(database_url)
    try:
        asyncio.run_coroutine_threadsafe(proxy.open(), loop).result(10)
        yield proxy
        asyncio.run_coroutine_threadsafe(proxy.close(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
