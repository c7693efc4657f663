"""A crowd: a thousand EventSources in one event loop, each with a Record of what it saw."""

import asyncio
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit
from uuid import UUID

from tests.support.sse import Parser, Record

HURRY = 0.1
"""Of the time after which an EventSource is asked to come back: ours come earlier."""

_READ = 64 * 1024
_AGAIN = 0.2
"""Seconds before another replica is tried when one does not answer."""


class Member:
    """Goes to the first of `addresses`, and on to the next each time that it is sent away."""

    def __init__(self, addresses: Sequence[str], batch_id: UUID, token: str) -> None:
        self.record = Record()
        self.ends: list[str] = []
        """How each of its connections ended: by the last event, or `cut`."""
        self.retries: list[int] = []
        """Milliseconds after which it was asked to come back, each time that it was sent away."""
        self._addresses = addresses
        self._batch_id = batch_id
        self._token = token

    async def watch(self) -> None:
        """Until the batch is finished. Fails when what it is told breaks the rules."""
        number = 0
        while True:
            try:
                end = await self._connect(self._addresses[number % len(self._addresses)])
            except ConnectionRefusedError:
                await asyncio.sleep(_AGAIN)
            else:
                self.ends.append(end)
                if end == "complete":
                    return
                await asyncio.sleep(HURRY * self.retries[-1] / 1000 if end == "draining" else _AGAIN)
            number += 1

    async def _connect(self, address: str) -> str:
        parts = urlsplit(address)
        self.record.cut()
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            lines = [
                f"GET /api/batches/{self._batch_id}/stream HTTP/1.1",
                f"Host: {parts.netloc}",
                "Accept: text/event-stream",
                f"Authorization: Bearer {self._token}",
                *([f"Last-Event-ID: {self.record.id}"] if self.record.id else []),
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 200 "), head
            return await self._listen(reader, chunked=b"transfer-encoding" in head)
        except (ConnectionResetError, asyncio.IncompleteReadError):
            return "cut"
        finally:
            writer.close()

    async def _listen(self, reader: asyncio.StreamReader, *, chunked: bool) -> str:
        assert not chunked, "a stream that was handed over has no chunks"
        parser = Parser()
        last = None
        while data := await reader.read(_READ):
            for event in parser.feed(data):
                self.record.take(event)
                last = event
        if last is None or last.name not in {"error", "complete"}:
            return "cut"
        if last.name == "complete":
            return "complete"
        self.retries.append(parser.retry[-1])
        return str(last.data["code"])


class Crowd:
    """Works in the running loop."""

    def __init__(self, size: int, addresses: Sequence[str], batch_id: UUID, token: str) -> None:
        self.members = [Member(addresses, batch_id, token) for _ in range(size)]
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(member.watch()) for member in self.members]

    async def until(self, condition: Callable[[Member], bool], what: str, seconds: float = 30) -> None:
        """So it is with all of them."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while waiting := sum(not condition(member) for member in self.members):
            for task in self._tasks:
                if task.done():
                    task.result()
            assert loop.time() < deadline, f"{waiting} of {len(self.members)}: {what}"
            await asyncio.sleep(0.05)

    async def see_the_end(self, seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            await asyncio.gather(*self._tasks)

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
