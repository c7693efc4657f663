"""Another attempt: what each kept of its failure, and what is to be seen while a job rests."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from services.api.app import create_app
from shared.settings import Settings
from shared.updates import Fatal, Job, JobError, Progress, Retryable, Updates
from tests.support.batches import assert_consistent, job_rows, wait_finished, wait_for
from tests.support.web import client, served
from tests.support.working import Nothing, kind_of, submit, working


@pytest.fixture
def work(settings: Settings) -> Callable[..., Any]:
    return partial(working, settings)


def test_each_attempts_error_is_kept_and_shown(engine: sa.Engine, settings: Settings, work: Callable[..., Any]) -> None:
    def unlucky(params: Nothing, job: Job) -> Updates[None]:
        yield Progress(10)
        if job.attempt == 1:
            raise Retryable("busy: line 2", code="printer: busy", after=0)
        if job.attempt == 2:
            raise JobError("no paper", code="paper")
        if job.attempt == 3:
            raise KeyError("page")
        raise Fatal("it burns", code="fire")

    batch_id = submit(engine, settings, 1, kind_of(unlucky))
    with work(unlucky, max_attempts=9, time_limit=60):
        wait_finished(engine, batch_id)
    (job,) = job_rows(engine, batch_id)
    with served(create_app(settings)) as address, client(address, settings) as anna:
        found = anna.get(f"/api/jobs/{job.id}").json()
    errors = [attempt["error"] for attempt in found["attempts"]]
    assert [(error["code"], error["message"]) for error in errors] == [
        ("printer: busy", "busy: line 2"),
        ("paper", "no paper"),
        ("exception", "KeyError: 'page'"),
        ("fire", "it burns"),
    ]
    assert found["error"] == errors[-1]
    assert_consistent(engine, batch_id)


@pytest.mark.parametrize("after", [3600, 1e300, float("inf")])
def test_a_job_that_rests_says_until_when(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any], after: float
) -> None:
    def busy(params: Nothing, job: Job) -> Updates[None]:
        yield Progress(40)
        raise Retryable("the printer is busy", after=after)

    begun = datetime.now(UTC)
    batch_id = submit(engine, settings, 1, kind_of(busy))
    with work(busy, max_attempts=2):
        (job,) = wait_for(lambda: [job for job in job_rows(engine, batch_id) if job.run_after], "it to rest")
    with served(create_app(settings)) as address, client(address, settings) as anna:
        batch = anna.get(f"/api/batches/{batch_id}").json()
        found = anna.get(f"/api/jobs/{job.id}").json()
    assert batch["waiting"]["reason"] == "delayed"
    assert batch["waiting"]["until"] == found["runAfter"]
    until = datetime.fromisoformat(found["runAfter"])
    assert timedelta(seconds=3590) < until - begun < timedelta(days=1, minutes=5), "a day at most"
    assert (found["status"], found["progress"], found["error"]["message"]) == ("QUEUED", 40, "the printer is busy")


@pytest.mark.parametrize("after", [-5, float("nan"), "soon"])
def test_a_wait_that_is_none_is_not_taken(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any], after: Any
) -> None:
    def hasty(params: Nothing, job: Job) -> Updates[int]:
        yield Progress(40)
        if job.attempt == 1:
            raise Retryable("the printer is busy", after=after)
        return job.attempt

    batch_id = submit(engine, settings, 1, kind_of(hasty))
    with work(hasty, max_attempts=2):
        assert wait_finished(engine, batch_id).status == "COMPLETED"
    assert_consistent(engine, batch_id)
