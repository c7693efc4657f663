"""Two sweepers at once, as if the lock that lets one at a time work did not hold: a lease is over once all the same."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
import sqlalchemy as sa

from services.worker.sweeper import Sweeper
from shared import models
from shared.kinds.rehearsal import REHEARSAL
from shared.settings import Settings
from tests.support.batches import assert_consistent, batch_row, job_rows, transition_rows
from tests.support.sweeping import sweeper_of
from tests.support.writer import Writer

pytestmark = pytest.mark.timeout(300)  # three seconds, but on a machine that is busy otherwise

JOBS = 100
ROUNDS = REHEARSAL.max_attempts


def test_two_sweepers_end_each_lease_once(settings: Settings, engine: sa.Engine) -> None:
    writer = Writer(engine, settings, JOBS)
    together = Barrier(2)

    def sweep(sweeper: Sweeper) -> None:
        together.wait()
        sweeper._expire(datetime.now(UTC) + timedelta(hours=1))

    with sweeper_of(engine, settings) as one, sweeper_of(engine, settings) as other, ThreadPoolExecutor(2) as pool:
        for done in range(1, ROUNDS + 1):
            writer.start(*range(JOBS))
            assert batch_row(engine, writer.batch_id).processing == JOBS
            with engine.begin() as connection:
                connection.execute(sa.update(models.jobs).values(lease_until=sa.func.clock_timestamp()))
            list(pool.map(sweep, [one, other]))
            assert [(job.attempt, job.failures) for job in job_rows(engine, writer.batch_id)] == [(done, done)] * JOBS
            assert_consistent(engine, writer.batch_id)
    reasons = [row.reason for row in transition_rows(engine, writer.batch_id)]
    assert reasons.count("lease_expired") == JOBS * ROUNDS
    assert batch_row(engine, writer.batch_id).status == "FAILED"
    writer.close()
