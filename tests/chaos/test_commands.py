"""Commands of jobs in a real worker process: they end with their job, however that ends."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from msgspec import Struct, structs

from shared import models
from shared.changes import Change
from shared.kinds.kind import Kind
from shared.settings import Settings
from tests.support.batches import cancel, job_rows, make_batch, wait_for
from tests.support.handlers import LEAVES, lives
from tests.support.plugged import plugged
from tests.support.processes import service

HANDLER = f"""
from shared.kit import run

def leave(params, job):
    (job.directory / "held").touch()
    yield from run(["sh", "-c", {LEAVES.format(then="trap '' TERM; sleep 300 & wait")!r}], cwd=job.directory)
"""


class Nothing(Struct):
    pass


KIND = Kind(name="test.leave", title="", params=Nothing)


@contextmanager
def at_work(
    settings: Settings, engine: sa.Engine, directory: Path, **limits: float
) -> Iterator[tuple[subprocess.Popen[bytes], UUID, list[int]]]:
    """A worker with a job that runs a command: the process, the batch, and the processes of the command."""
    temporary = directory / "tmp"
    temporary.mkdir()
    more = plugged(directory / "installed", KIND.name, "leave", HANDLER, **limits) | {"TMPDIR": str(temporary)}
    batch_id = make_batch(engine, kind=KIND)
    with service("services.worker", "--queue", "default", settings=settings, more=more) as process:
        processes = wait_for(lambda: _told(engine, batch_id), "the command to say what it is", 60)
        assert all(map(lives, processes))
        assert [path.name for path in temporary.rglob("held")] == ["held"]
        yield process, batch_id, processes
        wait_for(lambda: not any(map(lives, processes)), "all of the command to have ended", 60)


def _told(engine: sa.Engine, batch_id: UUID) -> list[int] | None:
    """The processes, once it has named all three."""
    query = sa.select(models.log_lines.c.text).where(models.log_lines.c.batch_id == batch_id)
    with engine.connect() as connection:
        told = [int(text) for text in connection.execute(query).scalars() if text.isdigit()]
    return told if len(told) == 3 else None


def by_cancel(engine: sa.Engine, _process: subprocess.Popen[bytes], batch_id: UUID) -> None:
    cancel(engine, batch_id)


def by_cancel_of_the_job(engine: sa.Engine, _process: subprocess.Popen[bytes], batch_id: UUID) -> None:
    (job,) = job_rows(engine, batch_id)
    with engine.begin() as connection:
        change = Change(connection, batch_id)
        assert change.cancel_job(job.id)
        change.close()


def by_sigterm(_engine: sa.Engine, process: subprocess.Popen[bytes], _batch_id: UUID) -> None:
    process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("end", [by_cancel, by_cancel_of_the_job, by_sigterm])
def test_a_command_that_is_deaf_to_sigterm_ends_with_its_job(
    end: Callable[[sa.Engine, subprocess.Popen[bytes], UUID], None],
    settings: Settings,
    engine: sa.Engine,
    tmp_path: Path,
) -> None:
    with at_work(settings, engine, tmp_path) as (process, batch_id, processes):
        begun = time.monotonic()
        end(engine, process, batch_id)
        wait_for(lambda: not any(map(lives, processes)), "all of the command to have ended", 60)
        took = time.monotonic() - begun
        wait_for(lambda: job_rows(engine, batch_id)[0].lease_token is None, "the job to have ended")
        wait_for(lambda: not list((tmp_path / "tmp").rglob("held")), "its directory to be gone")
    (job,) = job_rows(engine, batch_id)
    assert (job.status, job.failures) == (("QUEUED", 0) if end is by_sigterm else ("CANCELLED", 0))
    # a second to hear of it, or the grace before it is asked; what is beyond five is this machine's
    assert took < 5 + (settings.drain_grace if end is by_sigterm else 0) + 5


def test_a_command_ends_at_the_time_limit(settings: Settings, engine: sa.Engine, tmp_path: Path) -> None:
    with at_work(settings, engine, tmp_path, time_limit=2) as (_, batch_id, processes):
        wait_for(lambda: not any(map(lives, processes)), "all of the command to have ended", 60)
        (job,) = wait_for(lambda: [job for job in job_rows(engine, batch_id) if job.error_code], "its failure", 60)
        assert job.error_code == "time_limit"


def test_a_command_ends_with_a_worker_that_is_killed_and_the_next_one_clears_up(
    settings: Settings, engine: sa.Engine, tmp_path: Path
) -> None:
    with at_work(structs.replace(settings, lease=2), engine, tmp_path) as (process, batch_id, processes):
        process.kill()
        wait_for(lambda: not any(map(lives, processes)), "all of the command to have ended", 60)
        cancel(engine, batch_id)
    temporary = tmp_path / "tmp"
    assert list(temporary.rglob("held")), "nobody was left to remove it"
    more = {"TMPDIR": str(temporary)}
    with service("services.worker", "--queue", "default", settings=settings, more=more):
        wait_for(lambda: not list(temporary.rglob("held")), "the next worker to have removed it", 60)
