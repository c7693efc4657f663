"""The versioned change: every transition, fencing, and what readers find under each version."""

from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from shared.changes import Change, NoSuchBatch
from shared.channels import Frame, decode_frame
from shared.events import Delta, Failure, encode
from shared.job_updates import JobUpdate
from shared.jobs import JOB_TRANSITIONS, JobStatus
from tests.support.batches import assert_consistent, batch_row, cancel, job_rows, make_batch, transition_rows
from tests.support.claims import claim

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus


def start(engine: sa.Engine, batch_id: UUID, jobs: int = 1) -> tuple[UUID, Frame | None]:
    """Claims and starts jobs as the ledger does; the token and what was published."""
    token = uuid4()
    with engine.begin() as connection:
        rows = claim(connection, jobs, token)
    with engine.begin() as connection:
        change = Change(connection, batch_id)
        assert len(change.start([row.id for row in rows], token, 60)) == jobs
        return token, change.close()


def update(engine: sa.Engine, batch_id: UUID, *updates: JobUpdate) -> tuple[set[UUID], Frame | None]:
    with engine.begin() as connection:
        change = Change(connection, batch_id)
        return change.update(updates), change.close()


def delta_of(frame: Frame | None) -> Delta:
    assert frame is not None
    decoded = decode_frame(encode(frame))
    assert decoded is not None
    assert decoded[1] is not None
    return decoded[1]


def end(job: Any, token: UUID, status: JobStatus) -> JobUpdate:
    error = Failure("why", "because") if status in (FAILED, QUEUED) else None
    return JobUpdate(
        id=job.id,
        token=token,
        status=status,
        progress=40,
        error=error,
        delay=5 if status is QUEUED else None,
        counts=status in (FAILED, QUEUED),
        result=b'{"steps": 1, "attempt": 1}' if status is COMPLETED else None,
        reason="a test",
    )


ENDS = {
    COMPLETED: ("COMPLETED", 100, 100),
    FAILED: ("FAILED", 40, 100),
    CANCELLED: ("CANCELLED", 40, 100),
    QUEUED: ("PROCESSING", 40, 40),  # waits for its next attempt
}


@pytest.mark.parametrize("new", sorted(JOB_TRANSITIONS[PROCESSING]))
def test_every_end_of_an_attempt(engine: sa.Engine, new: JobStatus) -> None:
    batch_id = make_batch(engine)
    token, _ = start(engine, batch_id)
    (job,) = job_rows(engine, batch_id)
    accepted, frame = update(engine, batch_id, end(job, token, new))
    assert accepted == {job.id}
    (job,) = job_rows(engine, batch_id)
    batch = batch_row(engine, batch_id)
    assert (batch.status, job.progress, batch.progress_sum) == ENDS[new]
    assert (job.status, job.lease_token, job.lease_until) == (new, None, None)
    assert (job.run_after is not None) == (new is QUEUED)
    assert (job.finished_at is not None) == (new is not QUEUED)
    assert (job.result is not None) == (new is COMPLETED)
    assert (job.error_code == "why") == (new in (FAILED, QUEUED))
    assert job.failures == (new in (FAILED, QUEUED))
    (shown,) = delta_of(frame).jobs
    assert (shown.status, shown.progress) == (job.status, job.progress)
    with engine.connect() as connection:
        lanes = connection.execute(sa.text("SELECT count(*) FROM lanes")).scalar_one()
    assert lanes == (new is QUEUED), "a finished batch has no lane"
    assert_consistent(engine, batch_id)


def test_a_queued_job_is_cancelled_at_once_and_nothing_leaves_a_final_state(engine: sa.Engine) -> None:
    batch_id = make_batch(engine, 2)
    token, _ = start(engine, batch_id)
    running, waiting = job_rows(engine, batch_id)
    assert cancel(engine, batch_id) is not None
    running, waiting = job_rows(engine, batch_id)
    assert (running.status, running.cancel_requested, waiting.status) == ("PROCESSING", True, "CANCELLED")
    # after a cancel nothing is tried again and nothing fails
    update(engine, batch_id, end(running, token, QUEUED))
    assert batch_row(engine, batch_id).status == "CANCELLED"
    for status in JobStatus:
        for job in job_rows(engine, batch_id):
            accepted, frame = update(engine, batch_id, end(job, token, status))
            assert (accepted, frame) == (set(), None)
    assert [row.new_status for row in transition_rows(engine, batch_id) if not row.job_id] == [
        "QUEUED",
        "PROCESSING",
        "CANCELLED",
    ]
    assert_consistent(engine, batch_id)


def test_a_job_that_completes_after_the_cancel_has_completed(engine: sa.Engine) -> None:
    batch_id = make_batch(engine)
    token, _ = start(engine, batch_id)
    (job,) = job_rows(engine, batch_id)
    cancel(engine, batch_id)
    update(engine, batch_id, end(job, token, COMPLETED))
    assert (job_rows(engine, batch_id)[0].status, batch_row(engine, batch_id).status) == ("COMPLETED", "CANCELLED")


def test_only_the_holder_of_the_token_is_heard(engine: sa.Engine) -> None:
    batch_id = make_batch(engine, 1)
    token, _ = start(engine, batch_id)
    (job,) = job_rows(engine, batch_id)
    before = batch_row(engine, batch_id).version
    assert update(engine, batch_id, end(job, uuid4(), COMPLETED)) == (set(), None)
    assert batch_row(engine, batch_id).version == before, "nothing changed: no version"
    accepted, _ = update(engine, batch_id, end(job, token, COMPLETED))
    assert accepted == {job.id}
    # the same commit again, because its answer was lost
    assert update(engine, batch_id, end(job, token, COMPLETED)) == (set(), None)
    assert_consistent(engine, batch_id)


def test_a_reserved_job_runs_only_if_its_batch_still_wants_it(engine: sa.Engine) -> None:
    batch_id = make_batch(engine, 2)
    token = uuid4()
    with engine.begin() as connection:
        rows = claim(connection, 2, token)
    assert batch_row(engine, batch_id).version == 1, "a reservation is nobody's business"
    cancel(engine, batch_id)
    with engine.begin() as connection:
        change = Change(connection, batch_id)
        assert change.startable == 0
        assert change.start([row.id for row in rows], token, 60) == []
        assert change.close() is None


def test_progress_of_the_job_and_the_batch_never_falls(engine: sa.Engine) -> None:
    batch_id = make_batch(engine, 1)
    token, _ = start(engine, batch_id)
    (job,) = job_rows(engine, batch_id)
    seen = []
    for progress in (10, 60, 30, 120):
        _, frame = update(engine, batch_id, JobUpdate(id=job.id, token=token, progress=progress))
        seen.append((delta_of(frame).jobs[0].progress, delta_of(frame).batch.progress))
    assert seen == [(10, 10), (60, 60), (60, 60), (99, 99)]
    update(engine, batch_id, end(job, token, QUEUED))
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE jobs SET run_after = NULL"))
    _, frame = start(engine, batch_id)
    assert delta_of(frame).jobs[0].progress == 99, "a new attempt shows the highest so far"


def test_every_touched_row_carries_the_version(engine: sa.Engine) -> None:
    batch_id = make_batch(engine, 5)
    token, frame = start(engine, batch_id, 3)
    assert frame is not None
    assert (frame.since, frame.to) == (1, 2)
    assert [job.version for job in job_rows(engine, batch_id)] == [2, 2, 2, 1, 1]
    jobs = job_rows(engine, batch_id)
    update(engine, batch_id, JobUpdate(id=jobs[1].id, token=token, progress=5))
    assert [job.version for job in job_rows(engine, batch_id)] == [2, 3, 2, 1, 1]


def test_a_change_of_a_batch_that_is_not_there(engine: sa.Engine) -> None:
    with engine.begin() as connection, pytest.raises(NoSuchBatch):
        Change(connection, uuid4())
