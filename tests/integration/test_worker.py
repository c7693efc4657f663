"""One worker process, in threads of the test's own: what becomes of its jobs, and when."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from threading import Event
from typing import Any

import pytest
import sqlalchemy as sa

from shared import models, queries
from shared.changes import Change
from shared.job_updates import JobUpdate
from shared.jobs import JobStatus
from shared.settings import Settings
from shared.updates import Items, Job, Log, Progress, Retryable, Updates
from tests.support.batches import (
    assert_consistent,
    batch_row,
    cancel,
    job_rows,
    make_batch,
    transition_rows,
    wait_finished,
    wait_for,
)
from tests.support.locks import held, waiting
from tests.support.working import Nothing, kind_of, submit, working
from tests.support.writer import Writer

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def instant(params: Nothing, job: Job) -> Updates[None]:
    yield from ()


@pytest.fixture
def work(settings: Settings) -> Callable[..., Any]:
    """A worker that runs the given handlers, and `rehearsal`, while the `with` block lasts."""
    return partial(working, settings)


def test_a_batch_runs_to_its_end(engine: sa.Engine, settings: Settings, work: Callable[..., Any]) -> None:
    batch_id = submit(engine, settings, 6, params={"steps": 3, "stepMs": 10, "logsPerStep": 2})
    with work():
        batch = wait_finished(engine, batch_id)
    assert (batch.status, batch.completed, batch.progress_sum) == ("COMPLETED", 6, 600)
    assert batch.summary == {"jobs": 6, "steps": 18}
    assert batch.line_count == 6 * 3 * 3
    assert_consistent(engine, batch_id)
    steps = [
        (row.old_status, row.new_status, row.reason) for row in transition_rows(engine, batch_id) if not row.job_id
    ]
    assert steps == [
        (None, "QUEUED", "created"),
        ("QUEUED", "PROCESSING", "jobs"),
        ("PROCESSING", "COMPLETED", "jobs"),
    ]


def test_a_process_that_lost_a_job_and_claims_it_again_keeps_the_two_apart(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any]
) -> None:
    second, ended = Event(), Event()

    def twice(params: Nothing, job: Job) -> Updates[int]:
        yield Progress(10 * job.attempt)
        if job.attempt == 1:
            try:
                second.wait(10)
                while True:
                    yield Log("a zombie's")
            finally:
                ended.set()
        second.set()
        ended.wait(10)
        yield Log("mine")
        return job.attempt

    batch_id = submit(engine, settings, 1, kind_of(twice))
    with work(twice, time_limit=60) as process:
        (job,) = wait_for(lambda: [job for job in job_rows(engine, batch_id) if job.progress], "a running job")
        with engine.begin() as connection:  # as the sweeper does when the lease is over
            change = Change(connection, batch_id)
            assert change.update([JobUpdate(id=job.id, token=job.lease_token, status=JobStatus.QUEUED, delay=0)])
            change.close()
        assert wait_finished(engine, batch_id).status == "COMPLETED"
        assert process._ledger.running == 0
    assert [(job.attempt, job.result, job.last_line) for job in job_rows(engine, batch_id)] == [(2, 2, 1)]
    assert_consistent(engine, batch_id)


def test_a_retryable_failure_is_tried_again_and_lines_run_on(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any]
) -> None:
    def third_time(params: Nothing, job: Job) -> Updates[int]:
        yield Progress(10 * job.attempt, items=Items(1, 1, 4))
        yield Log("here we go")
        if job.attempt < 3:
            raise Retryable("the printer is busy", code="busy", after=0.05)
        yield Progress(items=Items(4, 0, 4))
        return job.attempt

    batch_id = submit(engine, settings, 1, kind_of(third_time))
    with work(third_time, max_attempts=3):
        batch = wait_finished(engine, batch_id)
    (job,) = job_rows(engine, batch_id)
    assert (batch.status, job.attempt, job.failures, job.result, job.error_code) == ("COMPLETED", 3, 2, 3, None)
    assert (job.items_done, job.items_failed, batch.failed_items) == (4, 0, 0)
    with engine.connect() as connection:
        lines = connection.execute(sa.text("SELECT n, attempt, level, text FROM log_lines ORDER BY n")).all()
    assert [(line.n, line.attempt, line.level) for line in lines] == [
        (1, 1, "log"),
        (2, 1, "error"),
        (3, 2, "log"),
        (4, 2, "error"),
        (5, 3, "log"),
    ]
    assert "the printer is busy; the next one in" in lines[1].text
    assert_consistent(engine, batch_id)


def test_failed_items_make_a_completed_batch_partial(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any]
) -> None:
    def skips_one(params: Nothing, job: Job) -> Updates[None]:
        yield Progress(50, items=Items(1, 0, 3))
        yield Progress(99, items=Items(2, 1, 3))

    batch_id = submit(engine, settings, 2, kind_of(skips_one))
    with work(skips_one):
        batch = wait_finished(engine, batch_id)
    assert (batch.status, batch.completed, batch.failed_items) == ("PARTIAL", 2, 2)
    assert_consistent(engine, batch_id)


def test_a_cancel_ends_queued_jobs_at_once_and_running_ones_through_their_finally(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any]
) -> None:
    cleaned = []

    def tidy(params: Nothing, job: Job) -> Updates[None]:
        try:
            while True:
                yield Progress(30)
                time.sleep(0.01)
        finally:
            cleaned.append(job.id)

    batch_id = submit(engine, settings, 10, kind_of(tidy))
    with work(tidy, time_limit=60):
        wait_for(lambda: batch_row(engine, batch_id).processing == 4, "four running jobs")
        cancel(engine, batch_id)
        row = batch_row(engine, batch_id)
        assert (row.status, row.queued, row.processing, row.cancelled) == ("PROCESSING", 0, 4, 6)
        batch = wait_finished(engine, batch_id, 5)
    assert (batch.status, batch.cancelled, batch.progress_sum) == ("CANCELLED", 10, 1000)
    assert len(cleaned) == 4
    assert_consistent(engine, batch_id)


def test_a_handler_that_ignores_a_cancel_does_not_hold_the_batch(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any]
) -> None:
    release = Event()

    def stubborn(params: Nothing, job: Job) -> Updates[None]:
        yield Progress(30)
        release.wait(20)
        yield Progress(60)

    batch_id = submit(engine, settings, 1, kind_of(stubborn))
    with work(stubborn, time_limit=60):
        wait_for(lambda: batch_row(engine, batch_id).processing, "a running job")
        cancel(engine, batch_id)
        batch = wait_finished(engine, batch_id, 5)
        release.set()
    assert batch.status == "CANCELLED"
    assert_consistent(engine, batch_id)


def test_shutdown_gives_running_jobs_back_without_using_up_an_attempt(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any]
) -> None:
    def patient(params: Nothing, job: Job) -> Updates[int]:
        yield Progress(40)
        while job.attempt == 1:
            yield Progress(40)
            time.sleep(0.01)
        return job.attempt

    batch_id = submit(engine, settings, 2, kind_of(patient))
    with work(patient, time_limit=60):
        wait_for(lambda: [job.progress for job in job_rows(engine, batch_id)] == [40, 40], "two running jobs")
    for job in job_rows(engine, batch_id):
        assert (job.status, job.attempt, job.failures, job.run_after, job.progress) == ("QUEUED", 1, 0, None, 40)
        assert job.lease_token is None
    assert batch_row(engine, batch_id).status == "PROCESSING"
    with work(patient, time_limit=60):  # no ticket is sent: the sweeper makes up for it
        assert wait_finished(engine, batch_id).status == "COMPLETED"
    assert [job.attempt for job in job_rows(engine, batch_id)] == [2, 2]
    assert_consistent(engine, batch_id)


def test_what_is_claimed_while_the_process_begins_to_leave_is_given_back(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any]
) -> None:
    batch_id = submit(engine, settings, 1, kind_of(instant))
    with engine.connect() as holder, work(instant) as process:
        holder.execute(queries.LOCK_BATCH, {"id": batch_id})  # it is claimed, but cannot be started yet
        wait_for(lambda: job_rows(engine, batch_id)[0].lease_token, "the reservation")
        process._ledger.stop_claiming()
        holder.rollback()
        wait_for(lambda: transition_rows(engine, batch_id)[-1].reason == "given_back", "the job to be given back")
    (job,) = job_rows(engine, batch_id)
    assert (job.status, job.attempt, job.failures, job.lease_token) == ("QUEUED", 1, 0, None)
    assert_consistent(engine, batch_id)


def test_leases_come_to_an_end_while_a_deletion_takes_its_time(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any]
) -> None:
    old, orphaned = make_batch(engine), Writer(engine, settings)
    cancel(engine, old)
    orphaned.start(0)
    orphaned.close()
    with engine.begin() as connection:
        connection.execute(
            sa.update(models.jobs).where(models.jobs.c.status == "PROCESSING").values(lease_until=LONG_AGO)
        )
        connection.execute(sa.update(models.batches).where(models.batches.c.id == old).values(finished_at=LONG_AGO))

    def expired() -> bool:
        return any(row.reason == "lease_expired" for row in transition_rows(engine, orphaned.batch_id))

    with work() as process:
        with held(settings.database_url, "SELECT 1 FROM jobs WHERE batch_id = %(id)s FOR UPDATE", id=old):
            wait_for(lambda: waiting(engine), "the deletion to be under way")
            wait_for(expired, "the lease to be over")
            assert waiting(engine), "with the deletion still under way"
        process._housekeeping.stop()
        process._housekeeping._loop.join(20)


def test_jobs_shorter_than_a_commit_are_started_and_ended_many_at_a_time(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any]
) -> None:
    batch_id = submit(engine, settings, 600, kind_of(instant))
    with work(instant):
        row = wait_finished(engine, batch_id)
    assert row.completed == 600
    assert row.version < 300, "with four threads one commit would else be good for four jobs at most"
    assert {job.attempt for job in job_rows(engine, batch_id)} == {1}
    assert_consistent(engine, batch_id)


def test_what_was_started_ahead_and_gets_no_thread_is_given_back(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any]
) -> None:
    """Short jobs, and then long ones, which hold all threads while short ones are started already."""
    release = Event()

    def sometimes_long(params: Nothing, job: Job) -> Updates[None]:
        yield Progress(1)
        if int(job.name.split()[1]) in range(400, 404):
            while not release.wait(0.01):
                yield Progress(50)

    batch_id = submit(engine, settings, 500, kind_of(sometimes_long))
    with work(sometimes_long, time_limit=60):
        wait_for(lambda: batch_row(engine, batch_id).processing == 4, "nothing but the long ones to be held")
        wait_for(lambda: _stays(lambda: batch_row(engine, batch_id).processing == 4), "that to stay")
        release.set()
        row = wait_finished(engine, batch_id)
    assert row.completed == 500
    jobs = job_rows(engine, batch_id)
    assert {job.failures for job in jobs} == {0}
    assert_consistent(engine, batch_id)


def _stays(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 1
    while condition():
        if time.monotonic() > until:
            return True
        time.sleep(0.02)
    return False


def test_concurrency_is_never_exceeded(engine: sa.Engine, settings: Settings, work: Callable[..., Any]) -> None:
    most = 0

    batch_id = submit(engine, settings, 12, params={"steps": 2, "stepMs": 20}, concurrency=2)
    with work():
        while (row := batch_row(engine, batch_id)).finished_at is None:
            most = max(most, row.processing)
    assert most == 2
    assert_consistent(engine, batch_id)


def test_higher_priority_goes_first(engine: sa.Engine, settings: Settings, work: Callable[..., Any]) -> None:
    low = make_batch(engine, 20, params={"steps": 1, "stepMs": 5}, priority=-1)
    high = make_batch(engine, 20, params={"steps": 1, "stepMs": 5}, priority=7)
    with work():
        wait_finished(engine, low)
    assert batch_row(engine, high).finished_at < batch_row(engine, low).finished_at
    first_low = min(job.started_at for job in job_rows(engine, low))
    assert first_low >= sorted(job.started_at for job in job_rows(engine, high))[-4]


def test_progress_is_throttled_but_ends_right(engine: sa.Engine, settings: Settings, work: Callable[..., Any]) -> None:
    def chatty(params: Nothing, job: Job) -> Updates[None]:
        for n in range(5000):
            yield Progress(n / 50)
        yield Log("done", "success")

    batch_id = submit(engine, settings, 1, kind_of(chatty))
    with work(chatty, time_limit=60):
        batch = wait_finished(engine, batch_id)
    (job,) = job_rows(engine, batch_id)
    seconds = (job.finished_at - job.started_at).total_seconds()
    assert batch.version <= 4 + 10 * (seconds + 0.2)
    assert JobStatus(job.status) is JobStatus.COMPLETED
