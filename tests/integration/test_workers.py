"""Workers are seen, with what they run, and asked to leave: by whoever runs the installation."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa
from msgspec import structs

from services.api.app import create_app
from services.worker.housekeeping import Housekeeping
from shared import models
from shared.channels import Publisher, broker_namespace
from shared.files import make_files
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.support.batches import assert_consistent, job_rows, make_batch, transition_rows, wait_for
from tests.support.processes import worker
from tests.support.tickets import call
from tests.support.web import assert_problem, client, decoded, served
from tests.support.workers import add_worker

LONG = {"steps": 1000, "stepMs": 50}
STUCK = {"steps": 1, "failAtStep": 1, "failure": "hang"}
LEAVING = 15.0
"""Seconds that a worker has beyond its graces, as docs/operations.md says."""


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with served(create_app(settings)) as address:
        yield address


@pytest.fixture
def admin(address: str, settings: Settings) -> Iterator[httpx.Client]:
    with client(address, settings, "somebody else", scope="admin") as admin:
        yield admin


def seen(admin: httpx.Client) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = decoded(admin.get("/api/workers"))["items"]
    return items


def await_one(admin: httpx.Client, **expected: Any) -> dict[str, Any]:
    """The only worker, once it is like this."""

    def found() -> dict[str, Any] | None:
        items = seen(admin)
        return next((item for item in items if len(items) == 1 and item | expected == item), None)

    one: dict[str, Any] = wait_for(found, f"one worker with {expected}")
    return one


def running(engine: sa.Engine, batch_id: UUID, jobs: int) -> list[str]:
    """The ids of those that run, once there are so many."""
    found = [str(job.id) for job in job_rows(engine, batch_id) if job.status == "PROCESSING"]
    return found if len(found) == jobs else []


def test_a_worker_is_seen_with_what_it_runs_until_it_has_left(
    admin: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    batch_id = make_batch(engine, 3, params=LONG)
    with worker(settings, tmp_path) as process:
        call(settings)
        jobs = wait_for(lambda: running(engine, batch_id, 3), "three jobs to run")
        one = await_one(admin, running=3)
        assert {name: one[name] for name in ("queue", "kinds", "pid", "threads", "abandoned", "status")} == {
            "queue": "default",
            "kinds": ["rehearsal"],
            "pid": process.pid,
            "threads": settings.threads,
            "abandoned": 0,
            "status": "working",
        }
        assert one["host"]
        assert one["version"][0].isdigit()
        assert 10_000_000 < one["memory"] < 1_000_000_000
        assert one["startedAt"] <= one["seenAt"]
        assert {job["jobId"] for job in one["jobs"]} == set(jobs)
        for job in one["jobs"]:
            assert (job["batchId"], job["kind"], job["attempt"]) == (str(batch_id), "rehearsal", 1)
            assert job.keys() == {"jobId", "batchId", "kind", "attempt", "startedAt"}, "nothing of the owner's"
        wait_for(lambda: seen(admin)[0]["seenAt"] > one["seenAt"], "another beat")
        process.terminate()
        await_one(admin, id=one["id"], status="draining")
        assert process.wait(LEAVING) == 0
        assert seen(admin) == []


def test_a_worker_that_is_not_heard_of_is_lost_and_then_forgotten(
    admin: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    with worker(settings, tmp_path) as process:
        one = await_one(admin, status="working")
        process.kill()
        process.wait(5)
        assert await_one(admin, status="lost")["seenAt"] >= one["seenAt"]
    late, too_late = add_worker(engine, silent=2 * settings.lease), add_worker(engine, silent=5 * settings.lease)
    with make_redis(settings.redis_url) as hints:
        Housekeeping(engine, Publisher(hints, settings.namespace), settings, make_files(settings)).round()
    left = {item["id"] for item in seen(admin)}
    assert str(late) in left
    assert str(too_late) not in left


def test_who_was_given_no_such_scope_neither_sees_workers_nor_stops_them(
    address: str, engine: sa.Engine, settings: Settings
) -> None:
    """Not even with a token that may do everything to what is its owner's."""
    path = f"/api/workers/{add_worker(engine)}/drain"
    for scope in (None, "", "read", "read write report"):
        with client(address, settings, scope=scope) as holder:
            for reply in (holder.get("/api/workers"), holder.post(path)):
                assert "`admin`" in assert_problem(reply, 403, "forbidden")["detail"]
    with engine.connect() as connection:
        assert not connection.execute(sa.select(models.workers.c.drain_requested)).scalar_one()


def test_the_list_comes_in_pages(admin: httpx.Client, engine: sa.Engine) -> None:
    ids = sorted(str(add_worker(engine)) for _ in range(5))
    pages: list[list[str]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = decoded(admin.get("/api/workers", params={"limit": 2} | ({"cursor": cursor} if cursor else {})))
        pages.append([item["id"] for item in page["items"]])
        cursor = page["nextCursor"]
    assert pages == [ids[:2], ids[2:4], ids[4:]]
    assert_problem(admin.get("/api/workers", params={"cursor": "nonsense"}), 400, "malformed")
    assert_problem(admin.get("/api/workers", params={"queue": "default"}), 422, "invalid")


def test_a_worker_that_is_asked_to_leave_finishes_what_it_runs(
    admin: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    """However long that takes: longer than after a signal."""
    settings = structs.replace(settings, threads=2, drain_grace=0.1, cancel_grace=0.1)
    batch_id = make_batch(engine, 6, params={"steps": 30, "stepMs": 100})
    with worker(settings, tmp_path) as process:
        call(settings)
        wait_for(lambda: running(engine, batch_id, 2), "two jobs to run")
        path = f"/api/workers/{await_one(admin)['id']}/drain"
        for _ in range(2):
            reply = admin.post(path)
            assert (reply.status_code, decoded(reply)["status"]) == (202, "draining")
        assert process.wait(60) == 0
    assert seen(admin) == []
    assert_problem(admin.post(path), 404, "not_found")
    assert_problem(admin.post(f"/api/workers/{uuid4()}/drain"), 404, "not_found")
    states = [(job.status, job.attempt, job.failures) for job in job_rows(engine, batch_id)]
    assert sorted(states) == [("COMPLETED", 1, 0)] * 2 + [("QUEUED", 0, 0)] * 4
    assert_consistent(engine, batch_id)


def test_tickets_are_left_to_others_while_a_worker_finishes_what_it_runs(
    admin: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    lasting = make_batch(engine, 1, params=LONG)
    with worker(settings, tmp_path) as process, make_redis(settings.redis_url) as redis:
        call(settings, 1)
        wait_for(lambda: running(engine, lasting, 1), "its job to run")
        admin.post(f"/api/workers/{await_one(admin)['id']}/drain")
        await_one(admin, status="draining")

        def kept() -> bool:
            """What it had fetched by then is gone; what comes now stays."""
            call(settings, 1)
            return bool(redis.llen(f"{broker_namespace(settings.namespace)}:default") >= 3)

        wait_for(kept, "tickets to wait")
        process.terminate()
        assert process.wait(LEAVING) == 0


def leave(process: "Popen[bytes]", *signals: signal.Signals) -> float:
    """Seconds that it takes, after the first of these."""
    began = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.3)  # that it is not seen as the same one
    assert process.wait(30) == 0
    return time.monotonic() - began


def test_a_second_signal_does_not_wait_for_jobs(engine: sa.Engine, settings: Settings, tmp_path: Path) -> None:
    settings = structs.replace(settings, drain_grace=300)
    batch_id = make_batch(engine, 2, params=LONG)
    with worker(settings, tmp_path) as process:
        call(settings)
        wait_for(lambda: running(engine, batch_id, 2), "two jobs to run")
        assert leave(process, signal.SIGINT, signal.SIGTERM) < settings.cancel_grace + LEAVING
    assert [(job.status, job.failures) for job in job_rows(engine, batch_id)] == [("QUEUED", 0)] * 2
    assert [row.reason for row in transition_rows(engine, batch_id)].count("given_back") == 2


def test_a_signal_does_not_wait_as_long_as_a_request(
    admin: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    batch_id = make_batch(engine, 2, params=LONG)
    with worker(settings, tmp_path) as process:
        call(settings)
        wait_for(lambda: running(engine, batch_id, 2), "two jobs to run")
        admin.post(f"/api/workers/{await_one(admin)['id']}/drain")
        await_one(admin, status="draining", running=2)
        assert process.poll() is None
        assert leave(process, signal.SIGTERM) < settings.drain_grace + settings.cancel_grace + LEAVING
    assert [(job.status, job.failures) for job in job_rows(engine, batch_id)] == [("QUEUED", 0)] * 2


def test_whoever_does_not_end_holds_nobody_up(engine: sa.Engine, settings: Settings, tmp_path: Path) -> None:
    settings = structs.replace(settings, drain_grace=0.5, cancel_grace=0.5)
    batch_id = make_batch(engine, 2, params=STUCK)
    with worker(settings, tmp_path) as process:
        call(settings)
        wait_for(lambda: running(engine, batch_id, 2), "two jobs to run")
        assert leave(process, signal.SIGTERM) < settings.drain_grace + settings.cancel_grace + LEAVING
    assert [(job.status, job.failures) for job in job_rows(engine, batch_id)] == [("QUEUED", 0)] * 2
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(models.workers)).scalar_one() == 0
