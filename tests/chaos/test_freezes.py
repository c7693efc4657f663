"""Processes that are frozen in the middle of what they do, are given up, and then go on."""

from pathlib import Path

import pytest

from shared.settings import Settings
from tests.support.batches import job_rows, wait_for
from tests.support.ordeal import PATIENCE, Ordeal, ordeal

pytestmark = pytest.mark.timeout(300)  # twenty seconds, but on a machine that is busy otherwise


def test_what_somebody_says_who_was_given_up_does_not_count(settings: Settings, tmp_path: Path) -> None:
    with ordeal(settings, tmp_path, retried=False, lasting=6) as batch:
        workers, streams = tuple(batch.whole.workers), batch.whole.streams
        wait_for(lambda: again(batch, attempt=1) == 6, "jobs to run in all of them", PATIENCE)
        batch.gets_on()
        for part in (*workers, *streams):
            part.freeze()
        batch.whole.hire()
        wait_for(lambda: again(batch, attempt=2) >= 3, "another one to have taken their jobs", PATIENCE)
        for parts in (streams, workers):
            for part in parts:
                part.thaw()
            batch.gets_on()
        batch.verdict(expired=True)


def again(batch: Ordeal, attempt: int) -> int:
    """How many of the jobs that last run for the nth time, and have got somewhere."""
    jobs = job_rows(batch.whole.engine, batch.batch_id)
    running = [job for job in jobs if job.name == "lasts" and job.status == "PROCESSING"]
    return sum(job.attempt == attempt and job.step is not None for job in running)
