"""Processes that are frozen in the middle of what they do, are given up, and then go on."""

from pathlib import Path
from uuid import UUID

from shared.settings import Settings
from tests.support.batches import job_rows, transition_rows, wait_for
from tests.support.ordeal import PATIENCE, Ordeal, ordeal


def running(batch: Ordeal) -> set[UUID]:
    return {job.id for job in job_rows(batch.whole.engine, batch.batch_id) if job.status == "PROCESSING"}


def expired(batch: Ordeal) -> int:
    rows = transition_rows(batch.whole.engine, batch.batch_id)
    return sum(row.reason == "lease_expired" for row in rows)


def test_what_somebody_says_who_was_given_up_does_not_count(settings: Settings, tmp_path: Path) -> None:
    with ordeal(settings, tmp_path, retried=False, lasting=6) as batch:
        # of eight threads these hold six, so that each worker has some of them
        lasting = [job.id for job in job_rows(batch.whole.engine, batch.batch_id) if job.name == "lasts"]
        wait_for(lambda: running(batch).issuperset(lasting), "them to run", PATIENCE)
        for worker, stream in zip(batch.whole.workers, batch.whole.streams, strict=True):
            batch.gets_on()
            before = expired(batch)
            worker.freeze()
            stream.freeze()
            wait_for(lambda before=before: expired(batch) > before, "the jobs to be taken from it", PATIENCE)
            stream.thaw()
            batch.gets_on()
            worker.thaw()
        batch.gets_on()
        batch.verdict(expired=True)
