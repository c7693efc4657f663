"""Two sweepers at once, as if the lock that lets one at a time work did not hold: a lease is over once all the same."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import sqlalchemy as sa
from msgspec import structs

from services.worker.sweeper import Sweeper
from shared import models
from shared.channels import Publisher, make_redis
from shared.database import make_engine
from shared.kinds import KINDS
from shared.kinds.rehearsal import REHEARSAL
from shared.queue import make_broker
from shared.settings import Settings
from tests.support.batches import assert_consistent, batch_row, job_rows, transition_rows
from tests.support.writer import Writer

SWEEPERS = 2
JOBS = 100
ROUNDS = REHEARSAL.max_attempts


def test_two_sweepers_end_each_lease_once(settings: Settings, engine: sa.Engine) -> None:
    settings = structs.replace(settings, lease=1)
    writer = Writer(engine, settings, JOBS)
    broker = make_broker(settings.redis_url, settings.namespace, ("default",))
    engines = [make_engine(settings.database_url, pool_size=2, application="test") for _ in range(SWEEPERS)]
    together = Barrier(SWEEPERS)
    with make_redis(settings.redis_url) as redis, ThreadPoolExecutor(SWEEPERS) as pool:
        publisher = Publisher(redis, settings.namespace)
        sweepers = [Sweeper(own, broker, publisher, settings, KINDS, jitter=lambda: 0) for own in engines]

        def sweep(sweeper: Sweeper) -> None:
            together.wait()
            sweeper._expire(datetime.now(UTC) + timedelta(hours=1))

        for done in range(1, ROUNDS + 1):
            writer.start(*range(JOBS))
            assert batch_row(engine, writer.batch_id).processing == JOBS
            with engine.begin() as connection:
                connection.execute(sa.update(models.jobs).values(lease_until=sa.func.clock_timestamp()))
            list(pool.map(sweep, sweepers))
            assert [(job.attempt, job.failures) for job in job_rows(engine, writer.batch_id)] == [(done, done)] * JOBS
            assert_consistent(engine, writer.batch_id)
    reasons = [row.reason for row in transition_rows(engine, writer.batch_id)]
    assert reasons.count("lease_expired") == JOBS * ROUNDS
    assert batch_row(engine, writer.batch_id).status == "FAILED"
    for own in engines:
        own.dispose()
    broker.client.close()
    writer.close()
