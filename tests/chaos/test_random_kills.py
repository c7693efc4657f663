"""SIGKILL of workers at random while 2,000 jobs of three owners run: each completes once, and every number is exact."""

from collections import Counter
from pathlib import Path
from random import Random
from threading import Event
from uuid import UUID

import pytest
import sqlalchemy as sa
from msgspec import structs

from shared import models
from shared.settings import Settings
from tests.support.batches import assert_consistent, batch_row, job_rows, make_batch, transition_rows, wait_for
from tests.support.history import History, record_history
from tests.support.installation import Service
from tests.support.ordeal import PATIENCE
from tests.support.tickets import call

pytestmark = pytest.mark.timeout(300)  # twenty seconds, but on a machine that is busy otherwise

BATCHES = {"anna": (1, 1000), "berta": (5, 100), "carl": (20, 25)}
"""Of each owner: how many batches, of how many jobs."""
JOBS = sum(count * jobs for count, jobs in BATCHES.values())
CREW = 3
KILLS = 6
STEPS = 2


def test_every_job_completes_once_whoever_is_killed(settings: Settings, engine: sa.Engine, tmp_path: Path) -> None:
    settings = structs.replace(settings, lease=2)
    record_history(engine, of="carl")  # who has so few jobs in a batch that each version can be kept whole
    params = {"steps": STEPS, "stepMs": 15, "logsPerStep": 1}  # long enough not to be started ahead
    batches = {
        make_batch(engine, jobs, owner=owner, params=params): owner
        for owner, (count, jobs) in BATCHES.items()
        for _ in range(count)
    }
    crew = [employ(settings, tmp_path / f"worker-{number}") for number in range(CREW)]
    try:
        for worker in crew:
            worker.start()
        call(settings)
        kill_some(crew, engine)
        wait_for(lambda: not unfinished(engine), "all batches to finish", 2 * PATIENCE)
    finally:
        for worker in crew:
            worker.kill()
    assert completed(engine) == JOBS == 2000
    failures = sum(check_batch(engine, batch_id, owner) for batch_id, owner in batches.items())
    assert failures >= KILLS // 2, "who was killed had something to do"


def employ(settings: Settings, path: Path) -> Service:
    ready, log = path.with_suffix(".ready"), path.with_suffix(".log")
    command = ("services.worker", "--queue", "default", "--ready-file", str(ready))
    return Service(settings, log, *command, answers=ready.exists, ready=ready)


def kill_some(crew: list[Service], engine: sa.Engine) -> None:
    """Spread over the work, so that there is always somebody at it. Each comes back."""
    chance = Random()  # noqa: S311  # another time each time
    for number in range(KILLS):
        wait_for(lambda number=number: completed(engine) >= number * JOBS // (KILLS + 1), "jobs to get on", PATIENCE)
        victim = chance.choice(crew)
        victim.await_ready()
        Event().wait(chance.uniform(0, 0.3))
        # a job may lose its worker twice: the third time it would be taken for what kills them
        wait_for(lambda: not endangered(engine), "a moment in which no job can fail", PATIENCE)
        victim.kill()
        victim.start()


def completed(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.select(sa.func.sum(models.batches.c.completed))).scalar_one())


def endangered(engine: sa.Engine) -> bool:
    """Whether there is a job that must not lose its worker any more."""
    job = models.jobs
    with engine.connect() as connection:
        at_risk = sa.select(sa.exists().where(job.c.failures >= 2, job.c.finished_at.is_(None)))
        return bool(connection.execute(at_risk).scalar_one())


def unfinished(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        return bool(
            connection.execute(sa.select(sa.exists().where(models.batches.c.finished_at.is_(None)))).scalar_one()
        )


def check_batch(engine: sa.Engine, batch_id: UUID, owner: str) -> int:
    """How many attempts its jobs lost."""
    batch, jobs = batch_row(engine, batch_id), job_rows(engine, batch_id)
    assert_consistent(engine, batch_id)
    assert (batch.owner, batch.status, batch.completed) == (owner, "COMPLETED", len(jobs))
    assert batch.summary == {"jobs": len(jobs), "steps": STEPS * len(jobs)}
    steps = Counter((row.job_id, row.reason) for row in transition_rows(engine, batch_id))
    for job in jobs:
        assert (job.status, steps[job.id, "completed"]) == ("COMPLETED", 1)
        assert job.result == {"steps": STEPS, "attempt": job.attempt}
        assert job.failures == steps[job.id, "lease_expired"] == job.attempt - 1
    if owner == "carl":
        history = History(engine, batch_id)
        history.read()
        history.check()
    return sum(job.failures for job in jobs)
