"""What a claim costs, by how much is queued: it must not grow with that."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from uuid import uuid4

import sqlalchemy as sa

from shared import queries
from tests.bench.results import ROUNDS, Number, Result, Verdict, percentile, ratios
from tests.bench.servers import Servers, engine, execute
from tests.bench.worker import NOTHING
from tests.support.batches import make_batch
from tests.support.claims import claim

_CLAIMS = 100
"""Of one round."""

_JOBS = 8
"""Of one claim: what the threads of a process ask for together."""

_OWNERS = 20


def measure(servers: Servers) -> Result:
    with ExitStack() as stack:
        one = stack.enter_context(_queued(servers, batches=1, jobs=1000))
        many = stack.enter_context(_queued(servers, batches=1000, jobs=1))
        million = stack.enter_context(_queued(servers, batches=1000, jobs=1000))
        every: dict[sa.Connection, list[list[float]]] = {one: [], many: [], million: []}
        for connection in every:
            _times(connection)  # the first make plans, and fill caches
        for _ in range(ROUNDS):
            for connection, rounds in every.items():
                rounds.append(_times(connection))
    halves = {connection: [median(times) for times in rounds] for connection, rounds in every.items()}
    slowest = [percentile(times, 99) for times in every[million]]
    return Result(
        f"claims: {_JOBS} jobs at once, of {_OWNERS} owners' where there are many batches",
        [
            Number("1,000 jobs in one batch, middle", "ms", halves[one]),
            Number("1,000 jobs in 1,000 batches, middle", "ms", halves[many]),
            Number("1,000,000 jobs in 1,000 batches, middle", "ms", halves[million]),
            Number("1,000,000 jobs in 1,000 batches, 99th of a hundred", "ms", slowest),
        ],
        [
            Verdict(
                "1,000,000 jobs, against 1,000 in 1,000 batches", "times", ratios(halves[million], halves[many]), 1.5
            ),
            Verdict("1,000,000 jobs, against 1,000 in one batch", "times", ratios(halves[million], halves[one])),
        ],
    )


@contextmanager
def _queued(servers: Servers, *, batches: int, jobs: int) -> Iterator[sa.Connection]:
    settings = servers.settings()
    with engine(settings) as database:
        for batch in range(batches):
            make_batch(database, jobs, NOTHING, owner=f"owner {batch % _OWNERS}")
        execute(settings, "VACUUM ANALYZE")
        with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection


def _times(connection: sa.Connection) -> list[float]:
    """Milliseconds. What was claimed goes back at once, so that there is always as much."""
    times = []
    for _ in range(_CLAIMS):
        token = uuid4()
        begin = time.monotonic()
        claimed = claim(connection, _JOBS, token)
        times.append((time.monotonic() - begin) * 1000)
        assert len(claimed) == _JOBS
        connection.execute(queries.RELEASE_CLAIMS, {"tokens": [token]})
    return times
