"""A batch of 10,000 jobs with a thousand viewers: how long others wait because of it, and the memory that it takes."""

import time
from collections import defaultdict

from shared.channels import Publisher
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.bench.results import ROUNDS, Number, Result, Verdict
from tests.bench.running import RunningBatch
from tests.bench.servers import Servers, engine
from tests.bench.stream.probe import probing
from tests.bench.stream.readers import readers
from tests.bench.stream.usage import peak, resident
from tests.bench.stream.watched import many_viewers, stream_service
from tests.support.batches import cancel, make_batch

_JOBS = 10_000
_VIEWERS = 1000
_AT_ONCE = 4
"""Connections under way: what many of them cost is the storm's question, and not this one's."""

_CHANGES = 60
_PERIOD = 0.05
_QUIET = 1.0
"""Seconds."""


Waits = dict[str, list[float]]
"""Milliseconds, by what happened meanwhile."""

Others = dict[tuple[str, str], list[float]]
"""By what it is and its unit."""


def measure(servers: Servers) -> Result:
    settings = many_viewers(servers.settings())
    waits: Waits = defaultdict(list)
    others: Others = defaultdict(list)
    stalls = [_watch(servers, settings, waits, others) for _ in range(ROUNDS)]
    return Result(
        f"stall: a batch of {_JOBS:,} jobs with {_VIEWERS:,} viewers",
        [
            *(Number(what, unit, values) for (what, unit), values in others.items()),
            *(Number(f"longest wait of another request while {when}", "ms", found) for when, found in waits.items()),
        ],
        [Verdict("the event loop was late by, at most", "ms", stalls, 20)],
    )


def _watch(servers: Servers, settings: Settings, waits: Waits, others: Others) -> float:
    """One round, with a process and a batch of its own; its longest stall."""
    with (
        engine(settings) as database,
        database.connect() as connection,
        make_redis(settings.redis_url) as client,
        stream_service(settings) as service,
        readers(servers.directory, service.port) as viewers,
    ):
        publisher = Publisher(client, settings.namespace)
        batch = RunningBatch(connection, publisher, make_batch(database, _JOBS))
        with probing(settings, service.port) as probe:
            empty = resident(service.pid)
            time.sleep(_QUIET)
            waits["nothing happens"].append(probe.longest())

            begin = time.monotonic()
            viewers.open(_VIEWERS, [service.request(batch.id, "jobs=all")], at_once=_AT_ONCE)
            others["until all had the whole of it", "s"].append(viewers.reach(batch.version)[0] - begin)
            others["the whole of it for one viewer", "MB"].append(viewers.count().bytes / _VIEWERS / 1e6)
            waits["they come"].append(probe.longest())

            for number in range(_CHANGES):
                time.sleep(_PERIOD)
                batch.update(batch.jobs[number], 50)
            viewers.reach(batch.version)
            waits["one job after the other gets on"].append(probe.longest())

            begin = time.monotonic()
            frame = cancel(database, batch.id)
            assert frame is not None
            publisher.publish(batch.id, frame)
            others["until all had a change of all jobs at once", "s"].append(viewers.reach(frame.to)[0] - begin)
            waits["all jobs change at once"].append(probe.longest())
            others["peak memory beyond the process without viewers", "MB"].append((peak(service.pid) - empty) / 1e6)
        return service.longest_stall()
