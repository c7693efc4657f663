"""Workers replaced one after the other while a batch runs and is watched: as at each update of Headway."""

from collections import Counter
from pathlib import Path

import pytest

from shared.settings import Settings
from tests.support.batches import job_rows, transition_rows, wait_for
from tests.support.ordeal import PATIENCE, Ordeal, ordeal

pytestmark = pytest.mark.timeout(300)  # fifteen seconds, but on a machine that is busy otherwise

LASTING = 3


def test_workers_replaced_in_turn_lose_nothing_and_no_attempt(settings: Settings, tmp_path: Path) -> None:
    with ordeal(settings, tmp_path, jobs=120, lasting=LASTING) as batch:
        for worker in batch.whole.workers:
            batch.gets_on()
            wait_for(lambda: lasting_run(batch), "the jobs that last to run", PATIENCE)
            assert worker.stop(60) == 0
            worker.start()
            worker.await_ready()
        batch.gets_on()
        batch.verdict()
        steps = transition_rows(batch.whole.engine, batch.batch_id)
        jobs = job_rows(batch.whole.engine, batch.batch_id)
    # The verdict has seen that none completed twice, that no lease expired, and that no failure was counted but those
    # that jobs were made for.
    given_back = Counter(step.job_id for step in steps if step.reason == "given_back")
    assert all(given_back[job.id] for job in jobs if job.name == "lasts"), "each was with somebody who left"
    assert all(job.attempt == 1 + given_back[job.id] for job in jobs if job.name == "completes")


def lasting_run(batch: Ordeal) -> bool:
    return all(job.status == "PROCESSING" for job in job_rows(batch.whole.engine, batch.batch_id)[:LASTING])
