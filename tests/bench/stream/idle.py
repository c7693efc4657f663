"""Memory of viewers who wait for news, in one process."""

import time

from msgspec import Struct

from tests.bench.results import ROUNDS, Number, Result, Verdict
from tests.bench.servers import Servers
from tests.bench.stream import nchan
from tests.bench.stream.sides import LITESTAR, NCHAN, OURS, Side, sides
from tests.bench.stream.usage import allow_files, descriptors, processor, resident
from tests.support.batches import wait_for

_VIEWERS = 15_000
_OTHERS = 3000
"""Viewers of the others: more would take a minute to come."""


_FILES = 1000
"""That a process has open besides its viewers, at most."""

_WARM_UP = 150
"""Viewers who come and go first: what is made once for all is not theirs."""

_SETTLE = 2.0


class _Crowd(Struct):
    empty: int
    """Bytes of the process without viewers."""
    full: int
    viewers: int
    came_in: float
    """Seconds."""
    spent: float
    """Seconds of processor time."""

    @property
    def each(self) -> float:
        """KB."""
        return (self.full - self.empty) / self.viewers / 1e3


def measure(servers: Servers) -> Result:
    viewers = min(_VIEWERS, allow_files() - _FILES)
    crowds: dict[str, list[_Crowd]] = {}
    for _ in range(ROUNDS):
        # heartbeats are on: who waits gets them, and they might take memory as well
        with sides(servers, [OURS, LITESTAR, NCHAN], pings=True) as started:
            for side in started:
                crowds.setdefault(side.name, []).append(_gather(side, viewers if side.name == OURS else _OTHERS))
    ours = crowds[OURS]
    return Result(
        f"idle: memory of {viewers:,} viewers of one batch in one process, who wait",
        [
            Number("Headway without viewers", "MB", [crowd.empty / 1e6 for crowd in ours]),
            Number(f"Headway with {viewers:,}", "MB", [crowd.full / 1e6 for crowd in ours]),
            Number(f"Headway, until all {viewers:,} were there", "s", [crowd.came_in for crowd in ours]),
            Number("Headway, processor time for each to come", "ms", [crowd.spent / viewers * 1e3 for crowd in ours]),
            *(
                Number(f"{name}, each of {_OTHERS:,}", "KB", [crowd.each for crowd in crowds[name]])
                for name in (LITESTAR, NCHAN)
                if name in crowds
            ),
        ],
        [Verdict("Headway, each viewer, beyond the process without", "KB", [crowd.each for crowd in ours], 2)],
        note="" if NCHAN in crowds else nchan.MISSING,
    )


def _gather(side: Side, viewers: int) -> _Crowd:
    """They leave again."""
    files = descriptors(side.pid)
    side.readers.open(_WARM_UP, [side.request])
    side.readers.cut()
    wait_for(lambda: descriptors(side.pid) <= files, f"{side.name} to see its viewers leave")
    empty, begin, spent = resident(side.pid), time.monotonic(), processor(side.pid)
    side.readers.open(viewers, [side.request])
    came_in = time.monotonic() - begin
    time.sleep(_SETTLE)
    crowd = _Crowd(empty, resident(side.pid), viewers, came_in, processor(side.pid) - spent)
    side.readers.cut()
    return crowd
