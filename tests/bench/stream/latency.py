"""From the commit of a change to each of a thousand viewers: all of one batch, and each of a batch of its own."""

import random
import time
from statistics import mean, median
from uuid import UUID

from msgspec import Raw
from sqlalchemy import Engine

from shared.channels import Publisher
from shared.creation import NewJob, create_batch
from shared.kinds.rehearsal import REHEARSAL
from shared.redis_clients import make_redis
from tests.bench.delivery import JOBS, waits_of
from tests.bench.results import ROUNDS, Number, Result, Verdict, percentile
from tests.bench.running import RunningBatch
from tests.bench.servers import Servers, engine
from tests.bench.stream.readers import Readers, readers
from tests.bench.stream.usage import resident
from tests.bench.stream.watched import many_viewers, stream_service
from tests.support.batches import OWNER, make_batch

VIEWERS = 1000
_CHANGES = 60
"""In a round."""

_PAUSE = (0.0, 0.1)
"""Seconds between two changes, drawn anew each time: some fall into the window of the one before, most do not."""

_PATIENCE = 10
"""Seconds."""


def measure(servers: Servers) -> Result:
    settings = many_viewers(servers.settings())
    pauses = random.Random(1)  # noqa: S311  # nothing is kept secret with these
    together: list[list[float]] = []
    apart: list[list[float]] = []
    with (
        engine(settings) as database,
        database.connect() as connection,
        make_redis(settings.redis_url) as client,
        stream_service(settings) as service,
        readers(servers.directory, service.port) as crowd,
        readers(servers.directory, service.port) as singles,
    ):
        publisher = Publisher(client, settings.namespace)
        one = RunningBatch(connection, publisher, make_batch(database, JOBS))
        many = [RunningBatch(connection, publisher, batch_id) for batch_id in _make_batches(database, VIEWERS)]
        crowd.open(VIEWERS, [service.request(one.id)])
        before = resident(service.pid)
        singles.open(VIEWERS, [service.request(batch.id) for batch in many])
        each = (resident(service.pid) - before) / VIEWERS
        for _ in range(ROUNDS):
            together.append(_together(one, crowd, pauses))
            apart.append(_apart(many, singles, pauses))
    return Result(
        f"latency: from the commit of a change to its arrival, about {1 / mean(_PAUSE):.0f} changes a second",
        [
            Number(f"{VIEWERS:,} viewers of one batch, middle", "ms", [median(waits) for waits in together]),
            Number(f"{VIEWERS:,} viewers of a batch each, middle", "ms", [median(waits) for waits in apart]),
            Number("memory of a batch with its one viewer", "KB", [each / 1e3]),
        ],
        [
            Verdict(f"{VIEWERS:,} viewers {of}, 99th of a hundred", "ms", [percentile(one, 99) for one in waits], 100)
            for of, waits in (("of one batch", together), ("of a batch each", apart))
        ],
    )


def _together(batch: RunningBatch, crowd: Readers, pauses: random.Random) -> list[float]:
    """Milliseconds of each change to each viewer."""
    crowd.arrivals()
    sent = []
    for _ in range(_CHANGES):
        time.sleep(pauses.uniform(*_PAUSE))
        sent.append(batch.update(batch.jobs[batch.updates % JOBS], 1 + batch.updates // JOBS))
    crowd.reach(sent[-1][0])
    return waits_of(sent, list(crowd.arrivals().values()))


def _apart(batches: list[RunningBatch], singles: Readers, chance: random.Random) -> list[float]:
    singles.arrivals()
    sent = {}
    for number in chance.sample(range(len(batches)), _CHANGES):
        time.sleep(chance.uniform(*_PAUSE))
        batch = batches[number]
        sent[number] = batch.update(batch.jobs[0], min(99, 1 + batch.updates))
    seen = singles.arrivals()
    until = time.monotonic() + _PATIENCE
    while len(seen) < len(sent):
        assert time.monotonic() < until, "a viewer was not told"
        time.sleep(0.05)
        seen |= singles.arrivals()
    return [wait for number, change in sent.items() for wait in waits_of([change], [seen[number]])]


def _make_batches(database: Engine, count: int) -> list[UUID]:
    """Of one job each, in one transaction."""
    jobs = [NewJob("the only one", Raw(b"{}"))]
    with database.begin() as connection:
        rows = [create_batch(connection, REHEARSAL, jobs, owner=OWNER, title="a bench") for _ in range(count)]
    return [row.id for row in rows]
