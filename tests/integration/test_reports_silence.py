"""Jobs that are reported from elsewhere and of which nothing is heard any more."""

import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from services.api.app import create_app
from services.worker.sweeper import Sweeper
from shared.channels import Publisher
from shared.kinds import KINDS, QUEUES
from shared.queue import make_broker
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.support.batches import assert_consistent, batch_row, job_rows, wait_for
from tests.support.elsewhere import Run, external
from tests.support.web import assert_problem, decoded, served, submit


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with served(create_app(settings)) as address:
        yield address


@pytest.fixture
def sweep(settings: Settings, engine: sa.Engine) -> Iterator[Callable[[], None]]:
    """One round."""
    broker = make_broker(settings.redis_url, settings.namespace, QUEUES)
    with make_redis(settings.redis_url) as redis:
        publisher = Publisher(redis, settings.namespace)
        yield Sweeper(engine, broker, publisher, replace(settings, lease=1), KINDS).sweep
    broker.close()


def first_job(engine: sa.Engine, batch: dict[str, Any]) -> sa.Row[Any]:
    return job_rows(engine, UUID(batch["batchId"]))[0]


def swept_until(sweep: Callable[[], None], condition: Callable[[], Any], what: str) -> None:
    def look() -> Any:
        sweep()
        return condition()

    wait_for(look, what)


def test_a_silent_job_is_queued_again_until_its_last_attempt_fails(
    anna: httpx.Client, engine: sa.Engine, sweep: Callable[[], None]
) -> None:
    batch = submit(anna, external(1, {"silenceSeconds": 1}))
    job_id = first_job(engine, batch).id
    for attempt, status in enumerate(("QUEUED", "QUEUED", "FAILED"), start=1):
        run = Run(anna, job_id)
        assert run.say("start")["attempt"] == attempt
        swept_until(sweep, lambda: first_job(engine, batch).status != "PROCESSING", "the silence to be noticed")
        job = decoded(anna.get(f"/api/jobs/{job_id}"))
        assert (job["status"], job["runAfter"]) == (status, None), "another may begin at once"
        assert job["error"] == {"code": "silent", "message": "nothing was reported for 1 s"}
        late = assert_problem(run.post({"type": "progress", "percent": 50}), 409, "conflict")["detail"]
        assert ("its attempt is over" if status == "QUEUED" else "FAILED already") in late
        assert_consistent(engine, UUID(batch["batchId"]))
    lines = decoded(anna.get(f"/api/batches/{batch['batchId']}/logs"))["items"]
    assert lines[-1]["text"] == "attempt 3 failed: nothing was reported for 1 s"
    assert batch_row(engine, UUID(batch["batchId"])).status == "FAILED"


def test_whoever_says_anything_is_not_silent(anna: httpx.Client, engine: sa.Engine, sweep: Callable[[], None]) -> None:
    # one goes on, the other does not: its end shows that the time was long enough
    batch = submit(anna, external(2, {"silenceSeconds": 3}))
    talks, silent = (Run(anna, job.id) for job in job_rows(engine, UUID(batch["batchId"])))
    talks.say("start")
    silent.say("start")

    def heard() -> bool:
        talks.say("progress")
        return job_rows(engine, UUID(batch["batchId"]))[1].status != "PROCESSING"

    swept_until(sweep, heard, "the other to be given up")
    assert talks.say("complete")["status"] == "COMPLETED"


def test_after_an_outage_programs_get_time_to_come_back(
    anna: httpx.Client, engine: sa.Engine, sweep: Callable[[], None]
) -> None:
    patient, hasty = (submit(anna, external(1, {"silenceSeconds": silence})) for silence in (3600, 1))
    for batch in (patient, hasty):
        Run(anna, first_job(engine, batch).id).say("start")
    with engine.begin() as connection:  # both were silent for too long when the sweeper comes
        connection.execute(sa.text("UPDATE jobs SET lease_until = clock_timestamp() - interval '1 minute'"))
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        sweep()
        assert first_job(engine, hasty).status == "PROCESSING", "it has just begun to look"
    swept_until(sweep, lambda: first_job(engine, hasty).status == "QUEUED", "the hasty one to be given up")
    assert first_job(engine, patient).status == "PROCESSING", "a minute is not over"


def test_a_silent_job_that_was_cancelled_is_cancelled(
    anna: httpx.Client, engine: sa.Engine, sweep: Callable[[], None]
) -> None:
    batch = submit(anna, external(1, {"silenceSeconds": 1}))
    Run(anna, first_job(engine, batch).id).say("start")
    anna.post(f"/api/batches/{batch['batchId']}/cancel")
    swept_until(sweep, lambda: first_job(engine, batch).status == "CANCELLED", "the silence to be noticed")
    assert batch_row(engine, UUID(batch["batchId"])).status == "CANCELLED"


def test_an_attempt_that_takes_longer_than_a_week_ends_with_its_next_report(
    anna: httpx.Client, engine: sa.Engine
) -> None:
    batch = submit(anna, external(1, {}))
    job_id = first_job(engine, batch).id
    run = Run(anna, job_id)
    run.say("start")
    run.say("progress", percent=10)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE jobs SET started_at = started_at - interval '8 days'"))
    assert run.say("progress", percent=20)["status"] == "QUEUED"
    job = first_job(engine, batch)
    assert (job.error_code, job.failures, job.progress) == ("time_limit", 1, 20)
    assert_problem(run.post({"type": "progress", "percent": 30}), 409, "conflict")
