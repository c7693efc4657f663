"""More jobs for a batch that is open, and its end once it is closed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
import redis
import sqlalchemy as sa

from services.api.app import create_app
from shared.channels import batch_channel, decode_frame
from shared.kinds import QUEUES
from shared.queue import make_broker, waiting_tickets
from shared.settings import Settings
from tests.support.batches import (
    OWNER,
    assert_consistent,
    batch_row,
    job_rows,
    transition_rows,
    wait_finished,
    wait_for,
)
from tests.support.history import History, record_history
from tests.support.processes import worker
from tests.support.web import assert_problem, client, decoded, rehearsal, served, submit, wrong_paths

QUICK = {"steps": 1, "stepMs": 1}


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with served(create_app(settings)) as address:
        yield address


def opened(api: httpx.Client, jobs: int = 0, **fields: Any) -> str:
    batch_id: str = submit(api, rehearsal(jobs, QUICK, open=True, **fields))["batchId"]
    return batch_id


def more(jobs: int, first: int = 0) -> dict[str, Any]:
    return {"jobs": [{"name": f"more {first + n}", "params": QUICK} for n in range(jobs)]}


def append(api: httpx.Client, batch_id: str, jobs: int = 1, key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return api.post(f"/api/batches/{batch_id}/jobs", json=more(jobs), headers=headers)


def close(api: httpx.Client, batch_id: str) -> httpx.Response:
    return api.post(f"/api/batches/{batch_id}/close")


def test_an_open_batch_takes_jobs_and_ends_when_it_is_closed(
    anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    record_history(engine)
    with worker(settings, tmp_path):
        batch_id = opened(anna, 2)
        wait_for(lambda: batch_row(engine, UUID(batch_id)).completed == 2, "the first jobs to end")
        idle = decoded(anna.get(f"/api/batches/{batch_id}"))
        assert (idle["status"], idle["open"], idle["progress"], idle["summary"]) == ("PROCESSING", True, 100, None)
        reply = append(anna, batch_id, 3)
        grown = decoded(reply)
        assert (reply.status_code, grown["counts"]["total"], grown["open"]) == (201, 5, True)
        wait_for(lambda: batch_row(engine, UUID(batch_id)).completed == 5, "all to end")
        assert batch_row(engine, UUID(batch_id)).finished_at is None
        closed = close(anna, batch_id)
        assert closed.status_code == 202
        said = decoded(closed)
        assert (said["status"], said["open"], said["summary"] is not None) == ("COMPLETED", False, True)
    assert [(job.position, job.name) for job in job_rows(engine, UUID(batch_id))] == [
        *((n, f"job {n}") for n in range(2)),
        *((n + 2, f"more {n}") for n in range(3)),
    ]
    steps = transition_rows(engine, UUID(batch_id))
    assert [step.reason for step in steps if step.job_id is None] == ["created", "jobs", "closed"]
    again = close(anna, batch_id)
    assert (again.status_code, decoded(again)) == (202, said), "it is closed already"
    assert_consistent(engine, UUID(batch_id))
    history = History(engine, UUID(batch_id))
    history.read()
    history.check()


def test_one_that_was_closed_ends_with_its_last_job(
    anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    batch_id = opened(anna, 3)
    said = decoded(close(anna, batch_id))
    assert (said["status"], said["open"], said["version"]) == ("QUEUED", False, 2)
    assert decoded(close(anna, batch_id))["version"] == 2
    assert_problem(append(anna, batch_id), 409, "conflict")
    with worker(settings, tmp_path):
        assert wait_finished(engine, UUID(batch_id)).status == "COMPLETED"
    assert_problem(append(anna, batch_id), 409, "conflict")


@pytest.mark.parametrize("paused", [False, True])
def test_one_without_any_job_completes(
    anna: httpx.Client,
    engine: sa.Engine,
    paused: bool,
) -> None:
    batch = submit(anna, {"kind": "rehearsal", "title": "empty", "open": True})
    assert (batch["status"], batch["counts"]["total"], batch["progress"]) == ("QUEUED", 0, 0)
    if paused:
        anna.post(f"/api/batches/{batch['batchId']}/pause")
    said = decoded(close(anna, batch["batchId"]))
    assert (said["status"], said["progress"], said["startedAt"]) == ("COMPLETED", 0, None)
    assert said["finishedAt"] is not None
    assert_consistent(engine, UUID(batch["batchId"]))


def test_a_cancel_closes_it(anna: httpx.Client, engine: sa.Engine) -> None:
    for jobs in (0, 2):
        batch_id = opened(anna, jobs)
        said = decoded(anna.post(f"/api/batches/{batch_id}/cancel"))
        assert (said["status"], said["open"]) == ("CANCELLED", False)
        assert_problem(append(anna, batch_id), 409, "conflict")
        assert_problem(close(anna, batch_id), 409, "conflict")
        assert_consistent(engine, UUID(batch_id))


def test_a_batch_that_never_was_open_takes_none(anna: httpx.Client) -> None:
    batch_id = submit(anna)["batchId"]
    assert assert_problem(append(anna, batch_id), 409, "conflict")["detail"] == "the batch is not open to more jobs"
    assert close(anna, batch_id).status_code == 202


def test_a_finished_one_that_is_retried_stays_closed(
    anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    fails = {"steps": 1, "stepMs": 1, "failAtStep": 1, "failAttempts": 1}
    batch_id = submit(anna, rehearsal(1, fails, open=True))["batchId"]
    with worker(settings, tmp_path):
        wait_for(lambda: batch_row(engine, UUID(batch_id)).failed, "the job to fail")
        # while it is open a failed job is taken up again without the batch having ended
        assert decoded(anna.post(f"/api/batches/{batch_id}/retry-failed"))["open"] is True
        wait_for(lambda: batch_row(engine, UUID(batch_id)).completed, "it to complete")
        append(anna, batch_id)
        assert anna.post(f"/api/batches/{batch_id}/pause").status_code == 202
        close(anna, batch_id)
        anna.post(f"/api/batches/{batch_id}/cancel")
        wait_finished(engine, UUID(batch_id))
        cancelled = [job for job in job_rows(engine, UUID(batch_id)) if job.status == "CANCELLED"]
        for job in cancelled:
            assert anna.post(f"/api/jobs/{job.id}/retry").status_code == 202
            assert_problem(append(anna, batch_id), 409, "conflict")
        assert wait_finished(engine, UUID(batch_id)).open is False
    assert_consistent(engine, UUID(batch_id))


def test_all_that_is_wrong_with_more_jobs_is_named(anna: httpx.Client, engine: sa.Engine) -> None:
    batch_id = opened(anna)
    path = f"/api/batches/{batch_id}/jobs"
    jobs = [{"name": "a", "params": {"steps": 0}}, {"name": "b"}, {"name": "c\0", "params": {}}, *more(1)["jobs"]]
    assert sorted(wrong_paths(anna.post(path, json={"jobs": jobs, "open": True}))) == [
        "jobs[0].params.steps",
        "jobs[1].params",
        "jobs[2].name",
        "open",
    ]
    for wrong in ({}, {"jobs": []}, {"jobs": None}, {"jobs": more(10_001)["jobs"]}):
        assert wrong_paths(anna.post(path, json=wrong)) == ["jobs"]
    assert_problem(anna.post(path, content=b"{", headers={"Content-Type": "application/json"}), 400, "malformed")
    assert job_rows(engine, UUID(batch_id)) == []


def test_it_needs_the_scope_and_to_be_ones_own(anna: httpx.Client, address: str, settings: Settings) -> None:
    batch_id = opened(anna)
    with client(address, settings, "bert") as bert, client(address, settings, OWNER, "read report") as reader:
        for reply in (append(bert, batch_id), close(bert, batch_id)):
            assert_problem(reply, 404, "not_found")
        for reply in (append(reader, batch_id), close(reader, batch_id)):
            assert_problem(reply, 403, "forbidden")


def test_a_batch_has_ten_thousand_jobs_at_most(anna: httpx.Client, engine: sa.Engine) -> None:
    batch_id = opened(anna, 1)
    assert append(anna, batch_id, 9_999).status_code == 201
    said = assert_problem(append(anna, batch_id), 409, "conflict")["detail"]
    assert said == "a batch has 10,000 jobs at most, and this one has 10,000 already"
    assert_consistent(engine, UUID(batch_id))


def test_the_same_request_adds_its_jobs_once(anna: httpx.Client, engine: sa.Engine) -> None:
    batch_id = opened(anna)
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda _: append(anna, batch_id, 5, "once"), range(8)))
    assert sorted(reply.status_code for reply in replies) == [200] * 7 + [201]
    assert batch_row(engine, UUID(batch_id)).total == 5
    assert_problem(append(anna, batch_id, 6, "once"), 409, "conflict")
    assert_problem(append(anna, opened(anna), 5, "once"), 409, "conflict")
    headers = {"Idempotency-Key": "once"}
    assert_problem(anna.post("/api/batches", json=more(5) | rehearsal(), headers=headers), 409, "conflict")
    close(anna, batch_id)
    assert append(anna, batch_id, 5, "once").status_code == 200, "also when it could not be done again"
    assert_problem(append(anna, batch_id, 5, "late"), 409, "conflict")
    assert_consistent(engine, UUID(batch_id))


def test_a_refused_request_uses_no_key_up(anna: httpx.Client) -> None:
    batch_id = submit(anna, rehearsal(1))["batchId"]
    assert append(anna, batch_id, 1, "key").status_code == 409
    assert append(anna, opened(anna), 1, "key").status_code == 201


def test_uploads_are_used_and_missing_ones_named(anna: httpx.Client, engine: sa.Engine) -> None:
    photo = {"file": ("a.jpg", b"\xff\xd8\xff\xe0 not much of a photo")}
    uploads = [decoded(anna.post("/api/uploads", files=photo))["uploadId"] for _ in range(2)]
    body = {"kind": "photos.inventory", "title": "", "open": True}
    batch_id = submit(anna, body)["batchId"]
    path = f"/api/batches/{batch_id}/jobs"

    def jobs(*names: str) -> dict[str, Any]:
        return {"jobs": [{"name": "a", "params": {"uploadId": name}} for name in names]}

    missing = "0199a1b2-0000-7000-8000-00000000000a"
    assert wrong_paths(anna.post(path, json=jobs(uploads[0], missing))) == ["jobs[1].params.uploadId"]
    for _ in range(2):  # the same ones again
        assert anna.post(path, json=jobs(*uploads)).status_code == 201
    with engine.connect() as connection:
        kept = connection.execute(sa.text("SELECT count(*) FROM uploads WHERE expires_at IS NULL")).scalar_one()
        used = connection.execute(sa.text("SELECT count(*) FROM upload_uses")).scalar_one()
    assert (kept, used, batch_row(engine, UUID(batch_id)).total) == (2, 2, 4)


def test_workers_are_called_and_watchers_told(anna: httpx.Client, settings: Settings) -> None:
    batch_id = opened(anna)
    broker = make_broker(settings.redis_url, settings.namespace, QUEUES)
    with redis.Redis.from_url(settings.redis_url) as hints, hints.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(batch_channel(settings.namespace, UUID(batch_id)))
        wait_for(lambda: pubsub.get_message(timeout=0.1) is None and pubsub.subscribed, "the subscription")

        def told() -> Any:
            return decode_frame(wait_for(lambda: pubsub.get_message(timeout=0.1), "a frame")["data"])

        append(anna, batch_id, 2)
        frame, delta = told()
        assert (frame.since, frame.to) == (1, 2)
        assert [(job.position, job.name, job.status) for job in delta.jobs] == [
            (0, "more 0", "QUEUED"),
            (1, "more 1", "QUEUED"),
        ]
        path = f"/api/batches/{batch_id}/jobs"
        assert msgspec.json.decode(msgspec.json.encode(delta.jobs)) == decoded(anna.get(path))["items"]
        assert waiting_tickets(broker, "default") == 2
        append(anna, batch_id, 5_000)
        frame, delta = told()
        assert (frame.since, frame.to, delta) == (2, 3, None)
    broker.close()


def test_nothing_is_lost_when_many_append_close_and_cancel_at_once(
    anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    """Each request that was accepted is in the batch, whole, and none that was refused."""
    record_history(engine)
    with worker(settings, tmp_path), ThreadPoolExecutor(9) as threads:
        for ending in ("close", "cancel", "close"):
            batch_id = opened(anna, 1)
            ready = Barrier(9)

            def add(number: int, batch_id: str = batch_id, ready: Barrier = ready) -> int:
                ready.wait(10)
                accepted = 0
                for turn in range(6):
                    jobs = more(number + 1, first=100 * number + 10 * turn)
                    reply = anna.post(f"/api/batches/{batch_id}/jobs", json=jobs)
                    assert reply.status_code in {201, 409}, reply.text
                    accepted += (number + 1) * (reply.status_code == 201)
                return accepted

            def end(batch_id: str = batch_id, ready: Barrier = ready, ending: str = ending) -> None:
                ready.wait(10)
                wait_for(lambda: batch_row(engine, UUID(batch_id)).total > 20, "some to be accepted")
                assert anna.post(f"/api/batches/{batch_id}/{ending}").status_code == 202

            adding = [threads.submit(add, number) for number in range(8)]
            threads.submit(end).result(30)
            accepted = 1 + sum(future.result(30) for future in adding)
            row = wait_finished(engine, UUID(batch_id))
            assert row.total == accepted
            assert row.status == ("COMPLETED" if ending == "close" else "CANCELLED")
            assert_consistent(engine, UUID(batch_id))
            history = History(engine, UUID(batch_id))
            history.read()
            history.check()
