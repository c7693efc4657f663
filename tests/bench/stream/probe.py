"""`python -m tests.bench.stream.probe PORT`: asks a service for a sign of life, over and over, and how long each took.

Prints, at each line of input, the milliseconds of the longest since the last.
"""

import selectors
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection

from shared.settings import Settings
from tests.bench.children import Child, child

_PERIOD = 0.004


class Probe:
    def __init__(self, process: Child) -> None:
        self._process = process

    def longest(self) -> float:
        """Milliseconds, since this was last asked."""
        self._process.say()
        return float(self._process.hear())


@contextmanager
def probing(settings: Settings, port: int) -> Iterator[Probe]:
    with child("tests.bench.stream.probe", str(port), settings=settings) as process:
        probe = Probe(process)
        probe.longest()
        yield probe


def _probe(port: int) -> None:
    longest = 0.0
    with closing(HTTPConnection("127.0.0.1", port)) as connection, selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            begin = time.perf_counter()
            connection.request("GET", "/health/live")
            reply = connection.getresponse()
            reply.read()
            assert reply.status == HTTPStatus.OK
            longest = max(longest, time.perf_counter() - begin)
            if selector.select(_PERIOD):
                if not sys.stdin.readline():
                    return
                print(longest * 1000, flush=True)
                longest = 0.0


if __name__ == "__main__":
    _probe(int(sys.argv[1]))
