"""One job's progress in a batch of 10,000 jobs, against the same in a batch of ten."""

import random
import time
from statistics import median
from uuid import UUID, uuid4

import sqlalchemy as sa

from shared import models
from shared.changes import Change, JobUpdate
from shared.channels import Publisher, make_redis
from tests.bench.results import ROUNDS, Number, Result, Verdict, percentile, ratios
from tests.bench.servers import Servers, engine, execute
from tests.support.batches import make_batch

_JOBS = (10, 10_000)
_UPDATES = 200
"""Of each batch in a round, in turns."""


class _Batch:
    """All of its jobs run, and one after the other gets on, as the ledger commits it."""

    def __init__(self, connection: sa.Connection, publisher: Publisher, batch_id: UUID) -> None:
        self._connection = connection
        self._publisher = publisher
        self._id = batch_id
        self._token = uuid4()
        self._updates = 0
        table = models.jobs
        with connection.begin():
            mine = table.c.batch_id == batch_id
            connection.execute(sa.update(table).where(mine).values(lease_token=self._token))
            self._jobs = list(connection.execute(sa.select(table.c.id).where(mine)).scalars())
            change = Change(connection, batch_id)
            change.start(self._jobs, self._token, 3600)
            change.close()

    def update(self, choice: random.Random) -> float:
        """Milliseconds."""
        self._updates += 1
        job_id, percent = choice.choice(self._jobs), self._updates * 99 // 10_000
        begin = time.perf_counter()
        with self._connection.begin():
            change = Change(self._connection, self._id)
            assert change.update([JobUpdate(id=job_id, token=self._token, progress=percent)])
            frame = change.close()
        assert frame is not None
        self._publisher.publish(self._id, frame)
        return (time.perf_counter() - begin) * 1000


def measure(servers: Servers) -> Result:
    settings = servers.settings()
    choice = random.Random(1)  # noqa: S311  # nothing is kept secret with these
    times: list[tuple[list[float], list[float]]] = []
    with engine(settings) as database, database.connect() as connection, make_redis(settings.redis_url) as client:
        publisher = Publisher(client, settings.namespace)
        few, many = (_Batch(connection, publisher, make_batch(database, jobs)) for jobs in _JOBS)
        execute(settings, "VACUUM ANALYZE")
        for number in range(1 + ROUNDS):
            spent: tuple[list[float], list[float]] = ([], [])
            for _ in range(_UPDATES):
                spent[0].append(few.update(choice))
                spent[1].append(many.update(choice))
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
