"""`python -m tests.bench.viewers`: one asyncio process of many readers, over sockets of their own.

Its first line of input says where to connect, with how many, and what each has to say; it prints `ready` once all were
answered, and at the next line what each saw: pairs of a version and the moment of its arrival.
"""

import asyncio
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import msgspec
import uvloop
from msgspec import Struct

from shared.settings import Settings
from tests.bench.children import Child, child

_VERSION = re.compile(rb'"version":(\d+)')
_END = b"\n\n"

Arrivals = list[list[tuple[int, float]]]


class Order(Struct):
    host: str
    port: int
    viewers: int
    request: bytes


class _Viewer(asyncio.Protocol):
    def __init__(self, request: bytes, answered: asyncio.Semaphore) -> None:
        self.arrivals: list[tuple[int, float]] = []
        self._request = request
        self._answered = answered
        self._rest = b""
        self._silent = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.WriteTransport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if self._silent:
            self._silent = False
            self._answered.release()
        whole, end, self._rest = (self._rest + data).rpartition(_END)
        if end:
            self.arrivals += [(int(found[1]), now) for found in _VERSION.finditer(whole)]


@contextmanager
def watching(settings: Settings, order: Order) -> Iterator[Child]:
    """That many viewers, all answered; ask `arrivals` before the end."""
    with child("tests.bench.viewers", settings=settings) as process:
        process.say(msgspec.json.encode(order).decode())
        assert process.hear() == "ready"
        yield process


def arrivals(process: Child) -> Arrivals:
    """What each viewer saw. They are gone afterwards."""
    process.say()
    return msgspec.json.decode(process.hear(), type=Arrivals)


async def _view(order: Order) -> None:
    loop = asyncio.get_running_loop()
    answered = asyncio.Semaphore(0)
    viewers = []
    for _ in range(order.viewers):
        _, viewer = await loop.create_connection(lambda: _Viewer(order.request, answered), order.host, order.port)
        viewers.append(viewer)
    for _ in viewers:
        await answered.acquire()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(msgspec.json.encode([viewer.arrivals for viewer in viewers]).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(_view(msgspec.json.decode(sys.stdin.readline(), type=Order)))
