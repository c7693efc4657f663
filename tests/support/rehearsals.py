"""A batch under which things may go wrong: jobs that complete, that fail, that need two attempts, and that last."""

from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from shared.changes import Change
from shared.channels import Publisher
from shared.creation import NewJob, create_batch
from shared.kinds import KINDS
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.support.batches import OWNER, batch_row, job_rows, transition_rows
from tests.support.history import History

STEPS = 6


def mixed(jobs: int = 60, lasting: int = 3, *, retried: bool = True, step_ms: int = 40) -> dict[str, Any]:
    """The body of a request. A job's name tells what is to become of it: `completes`, `fails`, `retried`, or `lasts`:
    until it is cancelled, so that the batch does not end before the test has done its worst.
    """
    params = {"steps": STEPS, "stepMs": step_ms, "logsPerStep": 1}
    some = []
    for number in range(jobs):
        if number % 12 == 5:
            some.append({"name": "fails", "params": params | {"failAtStep": 3}})
        elif number % 12 == 9 and retried:
            once = {"failAtStep": 2, "failAttempts": 1, "failure": "retryable"}
            some.append({"name": "retried", "params": params | once})
        else:
            some.append({"name": "completes", "params": params})
    last = {"name": "lasts", "params": {"steps": 5_000, "stepMs": 50}}
    return {"kind": "rehearsal", "title": "a rehearsal", "jobs": [last] * lasting + some}


def create(engine: sa.Engine, body: dict[str, Any]) -> UUID:
    """As the api does, but that nobody is called to work: the workers notice within two seconds."""
    jobs = [NewJob(job["name"], msgspec.Raw(msgspec.json.encode(job["params"]))) for job in body["jobs"]]
    with engine.begin() as connection:
        row = create_batch(connection, KINDS[body["kind"]], jobs, owner=OWNER, title=body["title"])
    return UUID(str(row.id))


def cancel_job(engine: sa.Engine, settings: Settings, batch_id: UUID, job_id: UUID) -> None:
    """As the api does."""
    with engine.begin() as connection:
        change = Change(connection, batch_id)
        change.cancel_job(job_id)
        frame = change.close()
    if frame is not None:
        redis = make_redis(settings.redis_url)
        Publisher(redis, settings.namespace).publish(batch_id, frame)
        redis.close()


def assert_played(engine: sa.Engine, batch_id: UUID, *, expired: bool = False) -> None:
    """All jobs ended as they were to, and each that completed did so once.

    `expired`: some lost their worker, which counts as a failure.
    """
    reasons: dict[UUID, list[str]] = {}
    for row in transition_rows(engine, batch_id):
        reasons.setdefault(row.job_id, []).append(row.reason)
    completed = 0
    for job in job_rows(engine, batch_id):
        what = (job.name, job.status, job.error_code, job.error_message, reasons[job.id])
        assert job.status == {"fails": "FAILED", "lasts": "CANCELLED"}.get(job.name, "COMPLETED"), what
        if job.status == "COMPLETED":
            completed += 1
            assert job.result == {"steps": STEPS, "attempt": job.attempt}
        if job.status == "FAILED":
            assert job.error_code == "rehearsed"
        lost = reasons[job.id].count("lease_expired")
        assert expired or not lost, what
        # one that lost its worker after the cancel is cancelled, and its failure counted
        if job.status != "CANCELLED" or not expired:
            assert job.failures == lost + reasons[job.id].count("rehearsed"), what
    batch = batch_row(engine, batch_id)
    assert batch.status == "PARTIAL"
    assert batch.summary == {"jobs": completed, "steps": STEPS * completed}


def assert_steps_rise(history: History) -> None:
    """Nobody but the one worker that had the job said how far it was."""
    for past in history.pasts:
        reached: dict[tuple[str, int], int] = {}
        for state in past.states:
            for key, job in state.jobs.items():
                if job["step"] is not None:
                    _, number, *_ = job["step"].split()  # step 3 of 6
                    attempt = (key, job["attempt"])
                    assert int(number) >= reached.get(attempt, 0), f"job {job['position']} at version {state.version}"
                    reached[attempt] = int(number)
