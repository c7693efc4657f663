"""Processor time of one event to one of a thousand viewers, against the least that it can cost and against others."""

import time

from tests.bench.results import ROUNDS, Number, Result, Verdict, ratios
from tests.bench.servers import Servers
from tests.bench.stream import nchan
from tests.bench.stream.sides import FLOOR, LITESTAR, NCHAN, OURS, Side, sides
from tests.bench.stream.usage import processor

VIEWERS = 1000
_EVENTS = 30
_PERIOD = 0.1
"""Seconds between two events: what takes 60 µs to deliver is busy for more than half of it."""


def measure(servers: Servers) -> Result:
    with sides(servers) as started:
        for side in started:
            side.readers.open(VIEWERS, [side.request])
        spent, sizes = take_turns(started)
    numbers = [Number(f"{name}, an event delivered", "µs", values) for name, values in spent.items()]
    numbers += [Number(f"{name}, the same event on the wire", "bytes", [sizes[name]]) for name in spent]
    return Result(
        f"fanout: processor time to deliver one event to one of {VIEWERS:,} viewers of a batch",
        numbers,
        [
            Verdict(f"Headway against {other}", "times", ratios(spent[OURS], spent[other]), limit)
            for other, limit in ((FLOOR, 1.3), (LITESTAR, None), (NCHAN, 1.0))
            if other in spent
        ],
        note="" if NCHAN in spent else nchan.MISSING,
    )


def take_turns(started: list[Side], rounds: int = ROUNDS) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Microseconds for an event delivered, in each round; and bytes of one."""
    spent: dict[str, list[float]] = {side.name: [] for side in started}
    sizes = {}
    for side in started:
        _deliver(side, 3)  # what is done once for all viewers' first event
    for _ in range(rounds):
        for side in started:
            each, sizes[side.name] = _deliver(side, _EVENTS)
            spent[side.name].append(each)
    return spent, sizes


def _deliver(side: Side, events: int) -> tuple[float, float]:
    before, spent = side.readers.count(), processor(side.pid)
    begin = time.monotonic()
    for number in range(events):
        time.sleep(max(0.0, begin + number * _PERIOD - time.monotonic()))
        newest = side.publish()
    side.readers.reach(newest)
    spent = processor(side.pid) - spent
    after = side.readers.count()
    delivered = after.events - before.events
    assert delivered > 0.9 * events * after.open, "events were merged: this machine is too busy to measure"
    return spent / delivered * 1e6, (after.bytes - before.bytes) / delivered
