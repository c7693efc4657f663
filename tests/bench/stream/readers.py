"""Thousands of viewers: the program c/readers.c, and what is asked of it."""

import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench.children import Child, program
from tests.bench.stream.programs import LONGEST, compiled

_ARRIVAL = struct.Struct("=IId")

AT_ONCE = 64
"""Connections without an answer yet, where they are not to come in a storm."""


class Count(NamedTuple):
    """Since the start."""

    events: int
    bytes: int
    open: int


class Readers:
    """Moments are those of time.monotonic()."""

    def __init__(self, child: Child, directory: Path) -> None:
        self._child = child
        self._directory = directory

    def open(self, count: int, requests: Sequence[bytes], *, at_once: int = AT_ONCE) -> None:
        """That many more, all answered; the requests are taken in turn. Who is sent away comes again when told to."""
        path = self._directory / "requests"
        path.write_bytes(b"".join(request + b"\0" for request in requests))
        assert self._ask(f"open {count} {at_once} {path}") == "opened"

    def count(self) -> Count:
        return Count(*map(int, self._ask("count").split()))

    def reach(self, version: int) -> tuple[float, int]:
        """When anyone last got a new version, once all have that or a later one; how often one was sent away."""
        moment, sent_away = self._ask(f"reach {version}").split()
        return float(moment), int(sent_away)

    def expect_end(self) -> None:
        """From here on the server may close them; `ended` says when it had."""
        self._child.say("over")

    def ended(self) -> tuple[float, int]:
        """When the last was closed, and how many were told that the server drains."""
        moment, told = self._child.hear().split()
        return float(moment), int(told)

    def cut(self) -> float:
        """Close all of them."""
        return float(self._ask("cut"))

    def arrivals(self) -> dict[int, list[tuple[int, float]]]:
        """Versions and moments in the order of their arrival, by reader; what was told before is left out."""
        path = self._directory / "arrivals"
        self._ask(f"arrivals {path}")
        seen = defaultdict(list)
        for reader, version, moment in _ARRIVAL.iter_unpack(path.read_bytes()):
            seen[reader].append((version, moment))
        return seen

    def _ask(self, line: str) -> str:
        self._child.say(line)
        return self._child.hear()


@contextmanager
def readers(directory: Path, port: int) -> Iterator[Readers]:
    """None yet."""
    with program([compiled(directory, "readers"), "127.0.0.1", str(port), str(LONGEST)]) as child:
        yield Readers(child, directory)
