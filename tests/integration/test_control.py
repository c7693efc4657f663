"""What is done to batches and jobs that are there: pause, resume, cancel, retry, delete, with a worker."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import redis
import sqlalchemy as sa

from services.api.app import create_app
from shared.channels import batch_channel, decode_frame
from shared.settings import Settings
from tests.support.batches import (
    assert_consistent,
    batch_row,
    job_rows,
    transition_rows,
    wait_finished,
    wait_for,
)
from tests.support.processes import worker
from tests.support.web import assert_problem, client, decoded, rehearsal, served, submit

FAILS_ONCE = {"steps": 2, "stepMs": 1, "failAtStep": 2, "failAttempts": 1, "failure": "fatal"}


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with served(create_app(settings)) as address:
        yield address


def do(api: httpx.Client, path: str) -> dict[str, Any]:
    reply = api.post(path)
    assert reply.status_code == 202, reply.text
    return decoded(reply)


def finished(engine: sa.Engine, batch_id: str, status: str) -> sa.Row[Any]:
    row = wait_finished(engine, UUID(batch_id))
    assert row.status == status
    assert_consistent(engine, UUID(batch_id))
    return row


def test_a_paused_batch_starts_nothing_until_it_is_resumed(
    anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    batch_id = submit(anna, rehearsal(6, {"steps": 3, "stepMs": 1}, priority=9))["batchId"]
    paused = do(anna, f"/api/batches/{batch_id}/pause")
    assert (paused["status"], paused["waiting"], paused["version"]) == ("PAUSED", {"reason": "paused"}, 2)
    assert do(anna, f"/api/batches/{batch_id}/pause")["version"] == 2, "it was paused already"
    assert decoded(anna.get("/api/batches", params={"status": "PAUSED"}))["items"] == [paused]
    with worker(settings, tmp_path):
        # a lower priority gets its turn although the paused batch would come first
        other = submit(anna, rehearsal(3, {"steps": 1, "stepMs": 1}))["batchId"]
        finished(engine, other, "COMPLETED")
        assert batch_row(engine, UUID(batch_id)).queued == 6
        resumed = do(anna, f"/api/batches/{batch_id}/resume")
        assert (resumed["status"], resumed["waiting"]) == ("QUEUED", None)
        assert_problem(anna.post(f"/api/batches/{other}/resume"), 409, "conflict")
        finished(engine, batch_id, "COMPLETED")
    reasons = [step.reason for step in transition_rows(engine, UUID(batch_id)) if step.job_id is None]
    assert reasons == ["created", "paused", "resumed", "jobs", "jobs"]


def test_jobs_that_run_when_a_batch_is_paused_finish_and_may_finish_the_batch(
    anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    with worker(settings, tmp_path):
        batch_id = submit(anna, rehearsal(2, {"steps": 10, "stepMs": 50}))["batchId"]
        wait_for(lambda: batch_row(engine, UUID(batch_id)).processing == 2, "both to run")
        paused = do(anna, f"/api/batches/{batch_id}/pause")
        assert (paused["status"], paused["counts"]["processing"]) == ("PAUSED", 2)
        finished(engine, batch_id, "COMPLETED")
    for action in ("pause", "resume", "cancel"):
        assert_problem(anna.post(f"/api/batches/{batch_id}/{action}"), 409, "conflict")


def test_a_cancel_lifts_a_pause(anna: httpx.Client, engine: sa.Engine) -> None:
    batch_id = submit(anna, rehearsal(2))["batchId"]
    do(anna, f"/api/batches/{batch_id}/pause")
    assert do(anna, f"/api/batches/{batch_id}/cancel")["status"] == "CANCELLED"
    assert do(anna, f"/api/batches/{batch_id}/cancel")["status"] == "CANCELLED"
    assert_consistent(engine, UUID(batch_id))
    assert_problem(anna.post(f"/api/batches/{batch_id}/resume"), 409, "conflict")


def test_failed_jobs_are_retried_and_the_batch_is_open_again(
    anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    jobs = [{"name": f"{n}", "params": FAILS_ONCE if n % 2 else {"steps": 1, "stepMs": 1}} for n in range(6)]
    batch_id = submit(anna, rehearsal() | {"jobs": jobs})["batchId"]
    assert_problem(anna.post(f"/api/batches/{batch_id}/retry-failed"), 409, "conflict")
    with worker(settings, tmp_path):
        before = finished(engine, batch_id, "PARTIAL")
        again = do(anna, f"/api/batches/{batch_id}/retry-failed")
        assert again["version"] > before.version
        assert again["status"] == "PROCESSING"
        assert again["finishedAt"] is None
        assert again["progress"] == (3 * 100 + 3 * 50) // 6
        finished(engine, batch_id, "COMPLETED")
    assert_problem(anna.post(f"/api/batches/{batch_id}/retry-failed"), 409, "conflict")
    assert [job.attempt for job in job_rows(engine, UUID(batch_id))] == [1, 2] * 3
    detail = decoded(anna.get(f"/api/jobs/{job_rows(engine, UUID(batch_id))[1].id}"))
    assert [attempt["error"] and attempt["error"]["code"] for attempt in detail["attempts"]] == ["rehearsed", None]


def test_a_retried_job_gets_its_kinds_attempts_anew(
    anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    batch_id = submit(anna, rehearsal(1, {"steps": 1, "stepMs": 1, "failAtStep": 1}))["batchId"]
    job_id = job_rows(engine, UUID(batch_id))[0].id
    with engine.begin() as connection:  # as if it had been tried so often already
        connection.execute(sa.text("UPDATE jobs SET failures = 2"))
    with worker(settings, tmp_path):
        finished(engine, batch_id, "FAILED")
        assert decoded(anna.get(f"/api/jobs/{job_id}"))["attempt"] == 1
        retried = do(anna, f"/api/jobs/{job_id}/retry")
        assert (retried["id"], retried["error"], retried["finishedAt"]) == (str(job_id), None, None)
        finished(engine, batch_id, "FAILED")
    assert job_rows(engine, UUID(batch_id))[0].failures == 1


def test_one_job_is_cancelled_and_taken_up_again(
    anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    batch_id = submit(anna, rehearsal(3, {"steps": 1, "stepMs": 1}))["batchId"]
    first, second, _ = (job.id for job in job_rows(engine, UUID(batch_id)))
    assert_problem(anna.post(f"/api/jobs/{first}/retry"), 409, "conflict")
    assert do(anna, f"/api/jobs/{first}/cancel")["status"] == "CANCELLED"
    version = batch_row(engine, UUID(batch_id)).version
    assert do(anna, f"/api/jobs/{first}/cancel")["status"] == "CANCELLED"
    assert batch_row(engine, UUID(batch_id)).version == version, "it was cancelled already"
    with worker(settings, tmp_path):
        finished(engine, batch_id, "PARTIAL")
        assert_problem(anna.post(f"/api/jobs/{second}/cancel"), 409, "conflict")
        assert do(anna, f"/api/jobs/{first}/retry")["status"] == "QUEUED"
        finished(engine, batch_id, "COMPLETED")
        assert_problem(anna.post(f"/api/jobs/{first}/retry"), 409, "conflict")


def test_taking_up_a_job_of_a_batch_that_has_not_begun_does_not_begin_it(anna: httpx.Client, engine: sa.Engine) -> None:
    batch_id = submit(anna, rehearsal(2))["batchId"]
    job_id = job_rows(engine, UUID(batch_id))[0].id
    do(anna, f"/api/jobs/{job_id}/cancel")
    do(anna, f"/api/jobs/{job_id}/retry")
    batch = decoded(anna.get(f"/api/batches/{batch_id}"))
    assert (batch["status"], batch["startedAt"], batch["counts"]["queued"]) == ("QUEUED", None, 2)
    assert_consistent(engine, UUID(batch_id))


def test_a_running_job_is_asked_to_end(
    anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    with worker(settings, tmp_path):
        batch_id = submit(anna, rehearsal(1, {"steps": 500, "stepMs": 50}))["batchId"]
        wait_for(lambda: batch_row(engine, UUID(batch_id)).processing, "it to run")
        job_id = job_rows(engine, UUID(batch_id))[0].id
        asked = do(anna, f"/api/jobs/{job_id}/cancel")
        assert (asked["status"], asked["cancelRequested"]) == ("PROCESSING", True)
        row = finished(engine, batch_id, "CANCELLED")  # every job was
        assert not row.cancel_requested


def test_a_cancelled_batch_goes_on_with_the_job_that_is_retried(
    anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    batch_id = submit(anna, rehearsal(3, {"steps": 1, "stepMs": 1}))["batchId"]
    do(anna, f"/api/batches/{batch_id}/cancel")
    do(anna, f"/api/jobs/{job_rows(engine, UUID(batch_id))[1].id}/retry")
    row = batch_row(engine, UUID(batch_id))
    assert (row.status, row.cancel_requested, row.cancelled, row.queued) == ("PROCESSING", False, 2, 1)
    with worker(settings, tmp_path):
        finished(engine, batch_id, "PARTIAL")


def test_nothing_is_retried_while_the_batch_is_being_cancelled(
    anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    with worker(settings, tmp_path):
        batch_id = submit(anna, rehearsal(5, {"steps": 1, "failAtStep": 1, "stepMs": 1}, concurrency=1))["batchId"]
        slow = {"name": "slow", "params": {"failure": "hang", "steps": 1, "stepMs": 1, "failAtStep": 1}}
        jobs = [{"name": "fails", "params": {"steps": 1, "stepMs": 1, "failAtStep": 1}}, slow]
        other = submit(anna, rehearsal() | {"jobs": jobs})["batchId"]
        wait_for(lambda: batch_row(engine, UUID(other)).failed == 1, "the first to fail")
        wait_for(lambda: batch_row(engine, UUID(other)).processing == 1, "the second to run")
        do(anna, f"/api/batches/{other}/cancel")
        for path in (f"/api/batches/{other}/retry-failed", f"/api/jobs/{job_rows(engine, UUID(other))[0].id}/retry"):
            assert_problem(anna.post(path), 409, "conflict")
        for action in ("pause", "resume"):
            assert_problem(anna.post(f"/api/batches/{other}/{action}"), 409, "conflict")
        finished(engine, batch_id, "FAILED")


def test_a_batch_whose_jobs_all_rest_says_until_when(
    anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    params = {"steps": 1, "stepMs": 1, "failAtStep": 1, "failAttempts": 1, "failure": "retryable"}
    batch_id = submit(anna, rehearsal(2, params))["batchId"]
    with worker(settings, tmp_path):

        def delayed() -> dict[str, Any] | None:
            batch = decoded(anna.get(f"/api/batches/{batch_id}"))
            return batch if batch["waiting"] or batch["finishedAt"] else None

        batch = wait_for(delayed, "both to rest")
        rests = [job.run_after for job in job_rows(engine, UUID(batch_id)) if job.run_after is not None]
        if rests:  # on a machine that is slow the time may be over
            assert batch["waiting"]["reason"] == "delayed"
            assert batch["status"] == "PROCESSING"
        finished(engine, batch_id, "COMPLETED")
    assert decoded(anna.get(f"/api/batches/{batch_id}"))["waiting"] is None


def test_a_finished_batch_is_deleted_with_all_that_hangs_on_it(
    anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path, redis_url: str
) -> None:
    batch_id = submit(anna, rehearsal(2, {"steps": 1, "stepMs": 1, "logsPerStep": 3}))["batchId"]
    kept = submit(anna, rehearsal(1, {"steps": 1, "stepMs": 1, "logsPerStep": 1}))["batchId"]
    assert_problem(anna.delete(f"/api/batches/{batch_id}"), 409, "conflict")
    with worker(settings, tmp_path):
        finished(engine, kept, "COMPLETED")
        version = finished(engine, batch_id, "COMPLETED").version
    with redis.Redis.from_url(redis_url) as client_, client_.pubsub() as heard:
        heard.subscribe(batch_channel(settings.namespace, UUID(batch_id)))
        wait_for(lambda: heard.get_message(timeout=1), "the confirmation")
        reply = anna.delete(f"/api/batches/{batch_id}")
        assert (reply.status_code, reply.content) == (204, b"")
        message = wait_for(lambda: heard.get_message(timeout=1), "the hint")
    decoded_frame = decode_frame(message["data"])
    assert decoded_frame is not None
    assert decoded_frame[0].to > version, "whoever watches looks"
    assert_problem(anna.get(f"/api/batches/{batch_id}"), 404, "not_found")
    assert_problem(anna.delete(f"/api/batches/{batch_id}"), 404, "not_found")
    with engine.connect() as connection:
        for table in ("jobs", "log_lines", "transitions"):
            left = connection.execute(sa.text(f"SELECT DISTINCT batch_id FROM {table}")).scalars().all()  # noqa: S608
            assert left == [UUID(kept)], table


def test_strangers_can_do_nothing(anna: httpx.Client, address: str, engine: sa.Engine, settings: Settings) -> None:
    batch_id = submit(anna)["batchId"]
    job_id = job_rows(engine, UUID(batch_id))[0].id
    paths = [f"/api/batches/{batch_id}/{action}" for action in ("pause", "resume", "cancel", "retry-failed")]
    paths += [f"/api/jobs/{job_id}/{action}" for action in ("cancel", "retry")]
    with client(address, settings, "bert") as bert, client(address, settings, scope="read") as reader:
        for path in [*paths, f"/api/jobs/{uuid4()}/cancel"]:
            assert_problem(bert.post(path), 404, "not_found")
        assert_problem(bert.delete(f"/api/batches/{batch_id}"), 404, "not_found")
        for path in paths:
            assert_problem(reader.post(path), 403, "forbidden")
        assert_problem(reader.delete(f"/api/batches/{batch_id}"), 403, "forbidden")
    assert batch_row(engine, UUID(batch_id)).version == 1
