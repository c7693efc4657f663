"""Everybody comes back at once, and has missed something: how long until all are current."""

import time

from msgspec import Struct

from tests.bench.delivery import JOBS
from tests.bench.results import ROUNDS, Number, Result, Verdict
from tests.bench.servers import Servers, engine
from tests.bench.stream.probe import probing
from tests.bench.stream.readers import Readers, readers
from tests.bench.stream.usage import processor
from tests.bench.stream.watched import Service, many_viewers, stream_service
from tests.support.writer import Writer

_VIEWERS = 5000


class _Storm(Struct):
    seconds: float
    """Until the last is current."""
    sent_away: int
    """How often one was told to come back later, on the way."""
    spent: float
    """Milliseconds of processor time for one."""
    longest: float
    """Milliseconds that another request had to wait meanwhile."""


def measure(servers: Servers) -> Result:
    settings = many_viewers(servers.settings())
    same: list[_Storm] = []
    fresh: list[_Storm] = []
    with engine(settings) as database, stream_service(settings) as service:
        writer = Writer(database, settings, JOBS)
        writer.start(*range(JOBS))
        with readers(servers.directory, service.port) as viewers:
            viewers.open(_VIEWERS, [service.request(writer.batch_id)])
            for _ in range(ROUNDS):
                last_id = service.first_event(writer.batch_id)[1]
                viewers.cut()
                same.append(_storm(viewers, service, writer, last_id))
                last_id = service.first_event(writer.batch_id)[1]
                with stream_service(settings) as other, readers(servers.directory, other.port) as moved:
                    fresh.append(_storm(moved, other, writer, last_id))
        writer.close()
    cases = (("the process that lost them", same), ("one that has just been started", fresh))
    numbers = [
        [
            Number(f"sent away meanwhile, by {process}", "times", [storm.sent_away for storm in storms]),
            Number(f"processor time of {process}, for each", "ms", [storm.spent for storm in storms]),
            Number(f"longest wait of another request at {process}", "ms", [storm.longest for storm in storms]),
        ]
        for process, storms in cases
    ]
    return Result(
        f"storm: {_VIEWERS:,} viewers of one batch connect again in the same moment, a change behind",
        [number for pair in numbers for number in pair],
        [
            Verdict(f"until all are current, at {process}", "s", [storm.seconds for storm in storms])
            for process, storms in cases
        ],
    )


def _storm(viewers: Readers, service: Service, writer: Writer, last_id: str) -> _Storm:
    missed = writer.progress(len(writer.frames) % JOBS, 50)
    with probing(service.settings, service.port) as probe:
        begin, spent = time.monotonic(), processor(service.pid)
        viewers.open(_VIEWERS, [service.request(writer.batch_id, last_id=last_id)], at_once=_VIEWERS)
        moment, sent_away = viewers.reach(missed)
        each = (processor(service.pid) - spent) / _VIEWERS * 1000
        return _Storm(moment - begin, sent_away, each, probe.longest())
