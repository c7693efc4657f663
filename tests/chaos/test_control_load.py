"""Control of a batch of 2,000 jobs under way with two worker processes, and of handlers that do not obey.

tests/chaos/test_control_storm.py has the same with a smaller batch whose every version is looked at.
"""

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa
from msgspec import structs

from services.api.app import create_app
from shared.creation import NewJob, create_batch
from shared.kinds.rehearsal import REHEARSAL
from shared.settings import Settings
from tests.support.batches import (
    OWNER,
    assert_consistent,
    batch_row,
    cancel,
    job_rows,
    make_batch,
    transition_rows,
    wait_finished,
    wait_for,
)
from tests.support.processes import worker
from tests.support.web import client, served

pytestmark = pytest.mark.timeout(300)  # half a minute, but on a machine that is busy otherwise

JOBS = 2_000
_ASKED = ("pause", "resume", "retry-failed", "cancel", "retry", "cancel", "retry")


def make(engine: sa.Engine) -> UUID:
    """Every tenth job fails, until it is retried: `failAttempts` counts all attempts."""
    good, bad = {"steps": 2, "stepMs": 25}, {"steps": 2, "stepMs": 25, "failAtStep": 2, "failAttempts": 1}
    jobs = [
        NewJob(f"job {number}", msgspec.Raw(msgspec.json.encode(good if number % 10 else bad)))
        for number in range(JOBS)
    ]
    with engine.begin() as connection:
        row = create_batch(connection, REHEARSAL, jobs, owner=OWNER, title="a storm")
    return UUID(str(row.id))


def test_counters_stay_exact_whatever_is_asked_of_2000_jobs_under_way(
    settings: Settings, engine: sa.Engine, tmp_path: Path
) -> None:
    chance, answers = Random(), Counter[tuple[str, int]]()  # noqa: S311  # another storm each time
    batch_id = make(engine)
    jobs = [job.id for job in job_rows(engine, batch_id)]
    address = f"/api/batches/{batch_id}"
    with (
        worker(settings, tmp_path),
        worker(settings, tmp_path),
        served(create_app(settings)) as api_address,
        client(api_address, settings) as api,
    ):
        wait_for(lambda: batch_row(engine, batch_id).completed >= 20, "the batch to be under way")
        for number in range(100):
            asked = chance.choice(_ASKED)
            of = f"/api/jobs/{chance.choice(jobs)}" if asked in {"cancel", "retry"} else address
            answers[asked, api.post(f"{of}/{asked}").status_code] += 1
            if number % 20 == 19:
                assert_consistent(engine, batch_id)
        answers["resume", api.post(f"{address}/resume").status_code] += 1
        done = batch_row(engine, batch_id).completed
        wait_for(lambda: batch_row(engine, batch_id).completed > done, "it to get on")
        assert batch_row(engine, batch_id).finished_at is None, "the storm was over before the batch"

        assert api.post(f"{address}/cancel").status_code == 202
        assert wait_finished(engine, batch_id, 60).status == "CANCELLED"
        assert_consistent(engine, batch_id)
        assert api.post(f"{address}/resume").status_code == 409

        # those that failed, and then those that were cancelled, come to life again
        if batch_row(engine, batch_id).failed:
            assert api.post(f"{address}/retry-failed").status_code == 202
            assert wait_finished(engine, batch_id, 60).failed == 0
            assert_consistent(engine, batch_id)
        ended = [job.id for job in job_rows(engine, batch_id) if job.status == "CANCELLED"]
        for job_id in ended[:50]:
            assert api.post(f"/api/jobs/{job_id}/retry").status_code == 202
        row = wait_finished(engine, batch_id, 60)
    assert_consistent(engine, batch_id)
    assert row.completed + row.failed + row.cancelled == JOBS
    assert row.cancelled == len(ended) - len(ended[:50])
    assert {status for _, status in answers} <= {202, 409}, answers


def hanging(engine: sa.Engine, jobs: int) -> UUID:
    return make_batch(engine, jobs, params={"steps": 1, "failAtStep": 1, "failure": "hang"})


def running(engine: sa.Engine, batch_id: UUID) -> Any:
    return batch_row(engine, batch_id).processing


def test_a_process_of_whose_threads_half_are_lost_is_replaced_and_gives_the_rest_back(
    settings: Settings, engine: sa.Engine, tmp_path: Path
) -> None:
    settings = structs.replace(settings, cancel_grace=0.5, drain_grace=0.5)
    with worker(settings, tmp_path) as process:
        lost = hanging(engine, 1)
        wait_for(lambda: running(engine, lost) == 1, "the first to hang")
        cancel(engine, lost)
        assert wait_finished(engine, lost).status == "CANCELLED", "its job does not wait for it"

        long = make_batch(engine, 2, params={"steps": 600, "stepMs": 100})
        wait_for(lambda: running(engine, long) == 2, "two that go on")
        assert process.poll() is None, "one thread of four is no reason to leave"
        again = hanging(engine, 1)
        wait_for(lambda: running(engine, again) == 1, "the second to hang")
        cancel(engine, again)
        assert process.wait(60) == 1, "it asks to be replaced"
    assert batch_row(engine, again).status == "CANCELLED"
    assert [(job.status, job.failures, job.lease_token) for job in job_rows(engine, long)] == [("QUEUED", 0, None)] * 2
    assert [step.reason for step in transition_rows(engine, long)].count("given_back") == 2
    for batch_id in (lost, again, long):
        assert_consistent(engine, batch_id)
    with worker(settings, tmp_path):
        wait_for(lambda: [job.attempt for job in job_rows(engine, long)] == [2, 2], "its successor to take them up")


def test_a_thread_that_was_abandoned_is_counted_and_the_others_go_on(
    settings: Settings, engine: sa.Engine, tmp_path: Path
) -> None:
    settings = structs.replace(settings, cancel_grace=0.5)

    def abandoned() -> Any:
        with engine.connect() as connection:
            return connection.execute(sa.text("SELECT abandoned FROM workers")).scalars().all()

    with worker(settings, tmp_path) as process:
        lost = hanging(engine, 1)
        wait_for(lambda: running(engine, lost) == 1, "it to hang")
        cancel(engine, lost)
        wait_finished(engine, lost)
        wait_for(lambda: abandoned() == [1], "the registry to show it")
        good = make_batch(engine, 8, params={"steps": 1, "stepMs": 1})
        assert wait_finished(engine, good).status == "COMPLETED", "the other threads go on"
        assert process.poll() is None
