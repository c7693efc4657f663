"""Estimates of real batches: folded by every change, kept with the batch and its kind, given with every reading."""

from typing import Any
from uuid import UUID, uuid4

import msgspec
import sqlalchemy as sa

from shared import models, queries
from shared.changes import Change
from shared.channels import Frame
from shared.events import Batch, Failure
from shared.job_updates import JobUpdate
from shared.jobs import JobStatus
from shared.pace import History, load
from shared.paces import history_of
from shared.rows import batch_of
from tests.support.batches import batch_row, cancel, job_rows, make_batch

_STARTED_BEFORE = sa.text("UPDATE jobs SET started_at = started_at - make_interval(secs => :ago) WHERE id = ANY(:ids)")
_KNOWN_BEFORE = sa.text("""
    UPDATE batches SET pace = jsonb_set(pace, '{0}', to_jsonb(CAST(pace ->> 0 AS float8) - :ago)) WHERE id = :batch
""")


def start(engine: sa.Engine, batch_id: UUID, jobs: int, *, ago: float = 0) -> tuple[list[UUID], UUID]:
    """Reserves and starts jobs, as if that had been so many seconds ago; which, and under which token."""
    token = uuid4()
    with engine.begin() as connection:
        found = connection.execute(
            sa.text("""
                UPDATE jobs SET lease_token = :token, lease_until = now() + interval '1 minute' WHERE id IN (
                    SELECT id FROM jobs WHERE batch_id = :batch AND status = 'QUEUED' AND lease_token IS NULL
                    ORDER BY position LIMIT :jobs)
                RETURNING id
            """),
            {"token": token, "batch": batch_id, "jobs": jobs},
        ).scalars()
        ids = list(found)
        change = Change(connection, batch_id)
        assert len(change.start(ids, token, 60)) == jobs
        change.close()
        if ago:
            parameters = {"ago": ago, "ids": ids, "batch": batch_id}
            connection.execute(_STARTED_BEFORE, parameters)
            connection.execute(_KNOWN_BEFORE, parameters)
    return ids, token


def end(
    engine: sa.Engine, batch_id: UUID, ids: list[UUID], token: UUID, status: JobStatus, **more: Any
) -> Frame | None:
    more = {"reason": "a test"} | more
    if status is JobStatus.COMPLETED:
        more["result"] = b'{"steps": 1, "attempt": 1}'
    else:
        more["error"] = Failure("why", "because")
    with engine.begin() as connection:
        change = Change(connection, batch_id)
        assert change.update([JobUpdate(id=id_, token=token, status=status, **more) for id_ in ids]) == set(ids)
        return change.close()


def complete(engine: sa.Engine, batch_id: UUID, jobs: int, *, seconds: float) -> Frame | None:
    return end(engine, batch_id, *start(engine, batch_id, jobs, ago=seconds), JobStatus.COMPLETED)


def read(engine: sa.Engine, batch_id: UUID) -> Batch:
    """As the api does."""
    with engine.connect() as connection:
        return batch_of(connection.execute(queries.WATCHED_BATCH, {"id": batch_id}).one())


def kind_history(engine: sa.Engine, kind: str = "rehearsal") -> History | None:
    with engine.connect() as connection:
        return history_of(connection, kind)


def test_every_ended_job_teaches_and_the_rest_is_estimated(engine: sa.Engine) -> None:
    batch_id = make_batch(engine, 12)
    assert batch_row(engine, batch_id).pace is None
    running, token = start(engine, batch_id, 4, ago=10)
    assert read(engine, batch_id).eta_seconds is None
    frame = end(engine, batch_id, running, token, JobStatus.COMPLETED)
    start(engine, batch_id, 4)
    pace = load(batch_row(engine, batch_id).pace)
    assert pace.completed == 4
    assert 9 < pace.mean < 15
    assert 3.5 < pace.parallel <= 4
    assert pace.ages < 5
    batch = read(engine, batch_id)
    assert batch.eta_seconds is not None
    assert batch.eta_low is not None
    assert batch.eta_high is not None
    assert 0 <= batch.eta_low <= batch.eta_seconds <= batch.eta_high
    assert 12 < batch.eta_seconds < 45
    assert frame is not None
    assert frame.batch is not None
    told = msgspec.json.decode(frame.batch, type=Batch)
    assert told.eta_seconds is not None, "those who watch are told as well"


def test_what_fails_is_given_back_or_cancelled_is_no_length(engine: sa.Engine) -> None:
    batch_id = make_batch(engine, 6)
    ids, token = start(engine, batch_id, 4, ago=10)
    end(engine, batch_id, ids[:1], token, JobStatus.FAILED, counts=True)
    end(engine, batch_id, ids[1:2], token, JobStatus.QUEUED, counts=True, delay=60)
    end(engine, batch_id, ids[2:3], token, JobStatus.QUEUED, delay=0)
    pace = load(batch_row(engine, batch_id).pace)
    assert (pace.completed, pace.failed, pace.retried) == (0, 1, 1)
    assert 9 < pace.failed_seconds < 15
    assert 9 < pace.retried_seconds < 15
    assert 9 < pace.ages < 15, "one still runs"
    cancel(engine, batch_id)
    end(engine, batch_id, ids[3:], token, JobStatus.CANCELLED)
    pace = load(batch_row(engine, batch_id).pace)
    assert (pace.completed, pace.failed, pace.retried) == (0, 1, 1)
    assert kind_history(engine) is None


def test_the_next_batch_of_a_kind_has_an_estimate_from_its_first_start(engine: sa.Engine) -> None:
    complete(engine, make_batch(engine, 8), 8, seconds=10)
    history = kind_history(engine)
    assert history is not None
    assert history.batches == 1
    batch_id = make_batch(engine, 20)
    assert read(engine, batch_id).eta_seconds is None, "nobody knows when it begins"
    start(engine, batch_id, 4)
    assert load(batch_row(engine, batch_id).pace).history == history
    eta = read(engine, batch_id).eta_seconds
    assert eta is not None
    assert 30 < eta < 100
    complete(engine, batch_id, 16, seconds=20)
    last = [job.id for job in job_rows(engine, batch_id) if job.status == JobStatus.PROCESSING]
    assert len(last) == 4
    row = batch_row(engine, batch_id)
    assert row.finished_at is None


def test_a_finished_or_paused_batch_has_none(engine: sa.Engine) -> None:
    batch_id = make_batch(engine, 8)
    complete(engine, batch_id, 4, seconds=10)
    assert read(engine, batch_id).eta_seconds is not None
    with engine.begin() as connection:
        change = Change(connection, batch_id)
        change.pause()
        change.close()
    assert read(engine, batch_id).eta_seconds is None
    with engine.begin() as connection:
        change = Change(connection, batch_id)
        change.resume()
        change.close()
    assert read(engine, batch_id).eta_seconds is not None
    complete(engine, batch_id, 4, seconds=10)
    batch = read(engine, batch_id)
    assert (batch.eta_seconds, batch.eta_low, batch.eta_high) == (None, None, None)


def test_a_reopened_batch_goes_by_what_it_knows(engine: sa.Engine) -> None:
    batch_id = make_batch(engine, 8)
    complete(engine, batch_id, 6, seconds=10)
    end(engine, batch_id, *start(engine, batch_id, 2), JobStatus.FAILED)
    assert read(engine, batch_id).finished_at is not None
    with engine.begin() as connection:
        change = Change(connection, batch_id)
        assert change.retry_failed() == 2
        change.close()
    eta = read(engine, batch_id).eta_seconds
    assert eta is not None
    assert 1 < eta < 60


def test_the_end_of_a_batch_waits_for_nobody_who_writes_its_kinds_history(engine: sa.Engine) -> None:
    first, second, third = (make_batch(engine, 4) for _ in range(3))
    complete(engine, first, 4, seconds=10)
    before = kind_history(engine)
    with engine.begin() as other:
        other.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
        assert other.execute(queries.PACE_TO_MOVE, {"kind": "rehearsal"}).one().pace is not None
        other.execute(queries.MOVE_PACE, {"kind": "rehearsal", "pace": "[7, 1.0, 0.1, 0.1, 0.3]"})
        complete(engine, second, 4, seconds=10)  # would wait for ever, this one being under way
        assert batch_row(engine, second).finished_at is not None
        assert kind_history(engine) == before
    complete(engine, third, 4, seconds=10)
    after = kind_history(engine)
    assert after is not None
    assert after.batches == 8


def test_what_is_kept_is_short(engine: sa.Engine) -> None:
    batch_id = make_batch(engine, 300)
    for _ in range(3):
        complete(engine, batch_id, 90, seconds=12.345678)
    with engine.connect() as connection:
        length = sa.func.length(sa.cast(models.batches.c.pace, sa.Text))
        assert connection.execute(sa.select(length)).scalar_one() < 300
