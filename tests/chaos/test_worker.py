"""Whole worker processes, and what they rest on, killed, frozen and restarted while batches run."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import UUID

import msgspec
import pytest
import redis
import sqlalchemy as sa
from msgspec import structs

from infra.embedded.postgres import Postgres
from infra.embedded.valkey import Valkey
from infra.migrations.migrate import migrate
from shared.channels import batch_channel, decode_frame
from shared.database import make_engine
from shared.settings import Settings
from tests.support.batches import (
    assert_consistent,
    batch_row,
    job_rows,
    make_batch,
    transition_rows,
    wait_finished,
    wait_for,
)
from tests.support.ports import own_port
from tests.support.processes import service, worker
from tests.support.tickets import call


def running_job(engine: sa.Engine, batch_id: UUID) -> Any:
    """A job that has got somewhere."""
    return next((job for job in job_rows(engine, batch_id) if job.status == "PROCESSING" and job.progress > 0), None)


def test_two_workers_share_a_batch_and_the_counters_are_exact(
    engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    client = redis.Redis.from_url(settings.redis_url)
    frames = client.pubsub()
    batch_id = make_batch(engine, 500, params={"steps": 2, "stepMs": 1, "logsPerStep": 1})
    frames.subscribe(batch_channel(settings.namespace, batch_id))
    with worker(settings, tmp_path), worker(settings, tmp_path):
        call(settings)
        batch = wait_finished(engine, batch_id)
    assert (batch.status, batch.completed, batch.progress_sum) == ("COMPLETED", 500, 50_000)
    assert batch.summary == {"jobs": 500, "steps": 1000}
    assert all((job.attempt, job.failures) == (1, 0) for job in job_rows(engine, batch_id))
    assert_consistent(engine, batch_id)
    seen = [
        decode_frame(m["data"]) for m in iter(lambda: frames.get_message(timeout=0.2), None) if m["type"] == "message"
    ]
    versions = [frame[0].to for frame in seen if frame]
    assert sorted(versions) == list(range(2, batch.version + 1)), "each version is published once"
    assert all(frame[0].since == frame[0].to - 1 for frame in seen if frame)
    frames.close()
    client.close()


def test_a_killed_workers_jobs_run_again(engine: sa.Engine, settings: Settings, tmp_path: Path) -> None:
    batch_id = make_batch(engine, 8, params={"steps": 20, "stepMs": 50})
    with worker(settings, tmp_path) as first:
        call(settings)
        wait_for(lambda: running_job(engine, batch_id), "a running job")
        first.kill()
        first.wait(5)
        begun = {job.id for job in job_rows(engine, batch_id) if job.status == "PROCESSING"}
        assert begun
        with worker(settings, tmp_path):
            batch = wait_finished(engine, batch_id)
    assert (batch.status, batch.completed) == ("COMPLETED", 8)
    for job in job_rows(engine, batch_id):
        assert (job.attempt, job.failures) == ((2, 1) if job.id in begun else (1, 0))
    reasons = {row.reason for row in transition_rows(engine, batch_id) if row.job_id in begun}
    assert "lease_expired" in reasons
    assert_consistent(engine, batch_id)


def test_a_zombies_late_updates_are_refused(engine: sa.Engine, settings: Settings, tmp_path: Path) -> None:
    batch_id = make_batch(engine, 1, params={"steps": 15, "stepMs": 100, "logsPerStep": 1})
    with worker(settings, tmp_path) as zombie:
        call(settings, 1)
        wait_for(lambda: running_job(engine, batch_id), "a running job")
        zombie.send_signal(signal.SIGSTOP)
        with worker(settings, tmp_path):
            wait_for(lambda: job_rows(engine, batch_id)[0].attempt == 2, "the second attempt")
            zombie.send_signal(signal.SIGCONT)
            batch = wait_finished(engine, batch_id)
            # the zombie has noticed, and takes other work
            after = make_batch(engine, 12, params={"steps": 1, "stepMs": 100})
            call(settings)
            wait_finished(engine, after)
            assert zombie.poll() is None
    (job,) = job_rows(engine, batch_id)
    assert (batch.status, job.attempt, job.failures) == ("COMPLETED", 2, 1)
    with engine.connect() as connection:
        late = connection.execute(
            sa.text(
                "SELECT count(*) FROM log_lines l WHERE attempt = 1"
                " AND n > (SELECT min(n) FROM log_lines s WHERE s.job_id = l.job_id AND s.attempt = 2)"
            )
        ).scalar_one()
    assert late == 0
    assert_consistent(engine, batch_id)


def test_a_job_that_kills_its_worker_fails_in_the_end(engine: sa.Engine, settings: Settings, tmp_path: Path) -> None:
    quick = structs.replace(settings, lease=1, threads=1)
    params = {"steps": 2, "stepMs": 10, "failAtStep": 1, "failure": "crash"}
    poison = make_batch(engine, 1, params=params)
    stop = Event()

    def keep_alive() -> None:  # what a supervisor does
        while not stop.is_set():
            with service("services.worker", "--queue", "default", settings=quick) as process:
                while process.poll() is None and not stop.wait(0.05):
                    pass

    thread = Thread(target=keep_alive)
    thread.start()
    try:
        batch = wait_finished(engine, poison, 60)
        good = make_batch(engine, 4, params={"steps": 1, "stepMs": 1})
        assert wait_finished(engine, good).status == "COMPLETED"
    finally:
        stop.set()
        thread.join(20)
    (job,) = job_rows(engine, poison)
    assert (batch.status, job.attempt, job.failures, job.error_code) == ("FAILED", 3, 3, "lease_expired")
    assert_consistent(engine, poison)


def test_redis_flushed_in_the_middle(settings: Settings, engine: sa.Engine, tmp_path: Path) -> None:
    valkey = Valkey(tmp_path / "valkey", own_port())
    valkey.start()
    settings = structs.replace(settings, redis_url=valkey.url)
    client = redis.Redis.from_url(valkey.url)
    try:
        batch_id = make_batch(engine, 200, params={"steps": 2, "stepMs": 10})
        with worker(settings, tmp_path), worker(settings, tmp_path):
            call(settings)
            for done in (20, 60, 100):
                wait_for(lambda done=done: batch_row(engine, batch_id).completed >= done, f"{done} jobs")
                client.flushall()
            batch = wait_finished(engine, batch_id)
            # and a ticket that was lost altogether is made up for
            lost = make_batch(engine, 4, params={"steps": 1, "stepMs": 1})
            wait_finished(engine, lost, 15)
    finally:
        client.close()
        valkey.stop()
    assert (batch.status, batch.completed) == ("COMPLETED", 200)
    assert all(job.attempt == 1 for job in job_rows(engine, batch_id))
    assert_consistent(engine, batch_id)


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_work_goes_on_while_redis_is_away(settings: Settings, engine: sa.Engine, tmp_path: Path, how: str) -> None:
    valkey = Valkey(tmp_path / "valkey", own_port())
    valkey.start()
    settings = structs.replace(settings, redis_url=valkey.url)
    try:
        batch_id = make_batch(engine, 60, params={"steps": 5, "stepMs": 20})
        with worker(settings, tmp_path):
            call(settings)
            wait_for(lambda: batch_row(engine, batch_id).completed >= 4, "the first jobs")
            gone = time.monotonic()
            if how == "stopped":
                valkey.stop()
            else:
                os.kill(valkey.pid, signal.SIGSTOP)
            done = batch_row(engine, batch_id).completed
            wait_for(lambda: batch_row(engine, batch_id).completed >= min(60, done + 8), "jobs while Redis is away")
            new = make_batch(engine, 8, params={"steps": 1, "stepMs": 10})
            began = wait_finished(engine, new, 10)
            assert began.status == "COMPLETED"
            wait_finished(engine, batch_id)
            if how == "stopped":
                Event().wait(gone + 4 - time.monotonic())
                valkey.start()
            else:
                os.kill(valkey.pid, signal.SIGCONT)
            back = make_batch(engine, 8, params={"steps": 1, "stepMs": 10})
            wait_finished(engine, back, 15)
    finally:
        os.kill(valkey.pid, signal.SIGCONT)
        valkey.stop()
    assert all(job.attempt == 1 for job in job_rows(engine, batch_id))
    for each in (batch_id, new, back):
        assert_consistent(engine, each)


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A server of the test's own, which it may kill."""
    server = Postgres(tmp_path / "postgres", own_port())
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("how", ["restarted", "killed"])
def test_postgresql_goes_away_and_comes_back(settings: Settings, postgres: Postgres, tmp_path: Path, how: str) -> None:
    migrate(postgres.url)
    settings = structs.replace(settings, database_url=postgres.url)
    engine = make_engine(postgres.url, pool_size=5, application="test")
    batch_id = make_batch(engine, 120, params={"steps": 4, "stepMs": 15, "logsPerStep": 2})
    with worker(settings, tmp_path) as first, worker(settings, tmp_path) as second:
        call(settings)
        wait_for(lambda: batch_row(engine, batch_id).completed >= 10, "the first jobs")
        for _ in range(2):
            if how == "killed":
                os.kill(postgres.pid, signal.SIGKILL)
                wait_for(lambda: not postgres.alive(), "the server to be gone")
            else:
                postgres.stop()
            Event().wait(1)  # long enough for everybody to notice
            postgres.start()
            before = wait_for(lambda: _completed(engine, batch_id), "the server to answer")
            wait_for(lambda before=before: batch_row(engine, batch_id).completed > before, "more jobs")
        batch = wait_finished(engine, batch_id, 60)
        assert first.poll() is None
        assert second.poll() is None
    assert (batch.status, batch.completed) == ("COMPLETED", 120)
    assert all(job.attempt == 1 for job in job_rows(engine, batch_id)), "an outage re-runs nothing"
    assert batch.summary == {"jobs": 120, "steps": 480}
    assert_consistent(engine, batch_id)
    engine.dispose()


def _completed(engine: sa.Engine, batch_id: UUID) -> int | None:
    try:
        return int(batch_row(engine, batch_id).completed)
    except sa.exc.OperationalError:
        return None


def test_sigterm_gives_jobs_back_and_leaves_in_time(engine: sa.Engine, settings: Settings, tmp_path: Path) -> None:
    settings = structs.replace(settings, drain_grace=0.5)
    batch_id = make_batch(engine, 8, params={"steps": 200, "stepMs": 20})
    with worker(settings, tmp_path) as process:
        call(settings)
        wait_for(lambda: batch_row(engine, batch_id).processing == 4, "four running jobs")
        process.terminate()
        assert process.wait(10) == 0
    for job in job_rows(engine, batch_id):
        assert (job.status, job.failures, job.lease_token) == ("QUEUED", 0, None)
    assert_consistent(engine, batch_id)
    assert msgspec.json.encode([row.reason for row in transition_rows(engine, batch_id)]).count(b"given_back") == 4
