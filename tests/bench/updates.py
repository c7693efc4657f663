"""One job's progress in a batch of 10,000 jobs, against the same in a batch of ten."""

import random
import time
from statistics import median

from shared.channels import Publisher
from shared.redis_clients import make_redis
from tests.bench.results import ROUNDS, Number, Result, Verdict, percentile, ratios
from tests.bench.running import RunningBatch
from tests.bench.servers import Servers, engine, execute
from tests.support.batches import make_batch

_JOBS = (10, 10_000)
_UPDATES = 200
"""Of each batch in a round, in turns."""


def measure(servers: Servers) -> Result:
    settings = servers.settings()
    choice = random.Random(1)  # noqa: S311  # nothing is kept secret with these
    times: list[tuple[list[float], list[float]]] = []
    with engine(settings) as database, database.connect() as connection, make_redis(settings.redis_url) as client:
        publisher = Publisher(client, settings.namespace)
        few, many = (RunningBatch(connection, publisher, make_batch(database, jobs)) for jobs in _JOBS)
        execute(settings, "VACUUM ANALYZE")
        for number in range(1 + ROUNDS):
            spent: tuple[list[float], list[float]] = ([], [])
            for _ in range(_UPDATES):
                spent[0].append(_update(few, choice))
                spent[1].append(_update(many, choice))
            if number:  # the first is for warming up
                times.append(spent)
    small, large = [median(spent[0]) for spent in times], [median(spent[1]) for spent in times]
    return Result(
        "updates: one job's progress, committed and published",
        [
            Number("in a batch of 10 jobs, middle", "ms", small),
            Number("in a batch of 10,000 jobs, middle", "ms", large),
            Number("in a batch of 10 jobs, 99th of a hundred", "ms", [percentile(spent[0], 99) for spent in times]),
            Number("in a batch of 10,000 jobs, 99th of a hundred", "ms", [percentile(spent[1], 99) for spent in times]),
        ],
        [Verdict("10,000 jobs against 10, the middles", "times", ratios(large, small), 1.2)],
    )


def _update(batch: RunningBatch, choice: random.Random) -> float:
    """Milliseconds."""
    job_id, percent = choice.choice(batch.jobs), (batch.updates + 1) * 99 // 10_000
    begin = time.perf_counter()
    batch.update(job_id, percent)
    return (time.perf_counter() - begin) * 1000
