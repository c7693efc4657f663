"""What a handler may say besides progress: metadata, checkpoints and nothing; and its directory."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from msgspec import Struct

from shared import models, queries
from shared.changes import Change
from shared.events import encode
from shared.job_updates import JobUpdate
from shared.jobs import JobStatus
from shared.kinds import KINDS
from shared.kinds.secret import HIDDEN, Secret
from shared.kit import run
from shared.rows import job_of
from shared.settings import Settings
from shared.updates import Checkpoint, Fatal, Job, Metadata, Progress, Retryable, Updates
from tests.support.batches import assert_consistent, batch_row, cancel, job_rows, wait_finished, wait_for
from tests.support.working import Nothing, kind_of, submit, working


@pytest.fixture
def work(settings: Settings) -> Callable[..., Any]:
    return partial(working, settings)


def shown(engine: sa.Engine, batch_id: UUID) -> bytes:
    """The first job, as viewers get it from PostgreSQL."""
    with engine.connect() as connection:
        row = connection.execute(queries.CHANGED_JOBS, {"batch_id": batch_id, "since": 0}).first()
    assert row is not None
    json: str = row.json
    return json.encode()


def test_metadata_is_there_while_the_job_runs_and_what_comes_later_replaces_it(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any]
) -> None:
    seen, go_on = Event(), Event()
    first = {
        "deep": nested(63),
        "pages": [1, 2.5, 1e300, None, True],
        "a: b, c": {'"': "ü\n\u2028 / <\U0001f600>"},
        "empty": {},
    }

    def tells(params: Nothing, job: Job) -> Updates[None]:
        if job.attempt == 2:
            yield Progress(1)
            seen.wait(20)
        yield Metadata({"gone": True})
        yield Metadata(first)
        yield Progress(10)
        if job.attempt == 1:
            go_on.wait(20)
            raise Retryable("once more", after=0)

    batch_id = submit(engine, settings, 1, kind_of(tells))
    with work(tells, time_limit=60, max_attempts=2):
        (job,) = wait_for(lambda: [job for job in job_rows(engine, batch_id) if job.metadata], "the metadata")
        assert (job.status, job.metadata) == ("PROCESSING", first)
        assert shown(engine, batch_id) == encode(job_of(job)), "two ways to the viewer, to the byte the same"
        go_on.set()
        wait_for(lambda: job_rows(engine, batch_id)[0].attempt == 2, "the second attempt")
        assert job_rows(engine, batch_id)[0].metadata is None, "an attempt begins without"
        seen.set()
        wait_finished(engine, batch_id)
    assert job_rows(engine, batch_id)[0].metadata == first, "it stays with the job that has ended"
    assert_consistent(engine, batch_id)


def nested(levels: int) -> Any:
    value: Any = '[{"'
    for _ in range(levels):
        value = [value]
    return value


UNKEPT: list[tuple[Any, str, str]] = [
    (Metadata({"text": "x" * 20_000}), "metadata_too_large", "at most 16384"),
    (Metadata([1, 2]), "unencodable_metadata", "not list"),  # type: ignore[arg-type]
    (Metadata({"what": object()}), "unencodable_metadata", "cannot be encoded as JSON"),
    (Metadata({"nul": "\0"}), "unencodable_metadata", "NUL"),
    (Metadata({"deep": nested(64)}), "unencodable_metadata", "more than 64 levels"),
    (Checkpoint("x" * 300_000), "checkpoint_too_large", "at most 262144"),
    (Checkpoint(object()), "unencodable_checkpoint", "cannot be encoded as JSON"),
]


@pytest.mark.parametrize(
    ("update", "code", "message"), UNKEPT, ids=[code + str(n) for n, (_, code, _) in enumerate(UNKEPT)]
)
def test_what_cannot_be_kept_fails_the_job(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any], update: Any, code: str, message: str
) -> None:
    def odd(params: Nothing, job: Job) -> Updates[None]:
        yield update

    batch_id = submit(engine, settings, 1, kind_of(odd))
    with work(odd, max_attempts=3):
        wait_finished(engine, batch_id)
    (job,) = job_rows(engine, batch_id)
    assert (job.status, job.error_code, job.attempt) == ("FAILED", code, 1), "another attempt would give the same"
    assert message in job.error_message


class Locked(Struct):
    password: Secret


def test_secrets_are_not_shown_in_metadata_and_come_back_whole_in_a_checkpoint(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any]
) -> None:
    def unlocks(params: Locked, job: Job) -> Updates[bool]:
        if job.attempt == 1:
            yield Metadata({"opened with": f"--key={params.password}"})
            yield Checkpoint({"key": params.password})
            raise Retryable("once more", after=0)
        yield Metadata({params.password: [params.password]})
        return bool(job.checkpoint == {"key": params.password})

    kind = kind_of(unlocks, params=Locked)
    batch_id = submit(engine, settings, 1, kind, params={"password": "correct horse"})
    with work(unlocks, params=Locked, max_attempts=2):
        wait_finished(engine, batch_id)
    (job,) = job_rows(engine, batch_id)
    assert (job.result, job.metadata) == (True, {HIDDEN: [HIDDEN]})


def test_secrets_that_a_command_prints_or_fails_with_are_masked(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any]
) -> None:
    def logs_in(params: Locked, job: Job) -> Updates[None]:
        yield from run(["sh", "-c", 'echo "key=$KEY"; exit 1'], env={"KEY": params.password})

    batch_id = submit(engine, settings, 1, kind_of(logs_in, params=Locked), params={"password": "correct horse"})
    with work(logs_in, params=Locked, time_limit=60):
        wait_finished(engine, batch_id)
    (job,) = job_rows(engine, batch_id)
    assert (job.error_code, job.error_message) == ("command_failed", f"sh ended with status 1: key={HIDDEN}")
    with engine.connect() as connection:
        lines = connection.execute(sa.select(models.log_lines.c.text).order_by(models.log_lines.c.n)).scalars().all()
    assert lines[0] == f"key={HIDDEN}"
    assert not any("horse" in line for line in lines)


def test_a_checkpoint_outlives_failures_crashes_and_a_retry_on_request(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    held = Event()

    def counts(params: Nothing, job: Job) -> Updates[int]:
        found.append(job.checkpoint)
        done = job.checkpoint or 0
        yield Checkpoint(done + 1)
        yield Progress(10 * job.attempt)
        if job.attempt == 1:
            raise Retryable("the printer is busy", after=0)
        if job.attempt == 2:
            held.wait(20)  # until its worker is taken for dead
        elif job.attempt == 3:
            raise Fatal("no paper")
        return done

    def kept() -> Any:
        return job_rows(engine, batch_id)[0].checkpoint

    monkeypatch.setitem(KINDS, counts.__name__, kind_of(counts))
    batch_id = submit(engine, settings, 1, kind_of(counts))
    with work(counts, time_limit=60, max_attempts=9):
        wait_for(lambda: kept() == 2, "the second attempt's checkpoint")
        (job,) = job_rows(engine, batch_id)
        with engine.begin() as connection:  # as the sweeper does when the lease is over
            change = Change(connection, batch_id)
            assert change.update([JobUpdate(id=job.id, token=job.lease_token, status=JobStatus.QUEUED, delay=0)])
            change.close()
        held.set()
        assert wait_finished(engine, batch_id).status == "FAILED"
        assert kept() == 3
        assert b"checkpoint" not in shown(engine, batch_id)
        with engine.begin() as connection:
            change = Change(connection, batch_id)
            change.retry_failed()
            change.close()
        assert wait_finished(engine, batch_id).status == "COMPLETED"
    assert found == [None, 1, 2, 3]
    assert kept() is None, "nobody needs it any more"
    assert_consistent(engine, batch_id)


def test_no_news_is_a_moment_for_the_end_and_nothing_else(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any]
) -> None:
    silent = Event()

    def waits(params: Nothing, job: Job) -> Updates[None]:
        yield Progress(10)
        while True:
            yield None
            silent.wait(0.01)

    batch_id = submit(engine, settings, 1, kind_of(waits))
    with work(waits, time_limit=60):
        wait_for(lambda: job_rows(engine, batch_id)[0].progress == 10, "the job to run")
        version = batch_row(engine, batch_id).version
        silent.wait(0.5)
        assert batch_row(engine, batch_id).version == version
        cancel(engine, batch_id)
        assert wait_finished(engine, batch_id).status == "CANCELLED"


@pytest.mark.parametrize("how", ["completes", "fails", "is cancelled"])
def test_the_directory_of_an_attempt_goes_with_it(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any], how: str
) -> None:
    places: list[Path] = []
    ready = Event()

    def writes(params: Nothing, job: Job) -> Updates[None]:
        yield Progress(1)
        assert job.scratch is not None
        assert not job.scratch.exists(), "one that does not ask gets none"
        inner = job.directory / "pages"
        inner.mkdir()
        (inner / "1.txt").write_text("one")
        inner.chmod(0o500)
        assert job.directory.stat().st_mode & 0o077 == 0
        places.append(job.directory)
        ready.set()
        while how == "is cancelled":
            yield None
            ready.wait(0.01)
        if how == "fails":
            raise Fatal("no paper")

    batch_id = submit(engine, settings, 1, kind_of(writes))
    with work(writes, time_limit=60):
        assert ready.wait(20)
        if how == "is cancelled":
            cancel(engine, batch_id)
        wait_finished(engine, batch_id)
        wait_for(lambda: not places[0].exists(), "the directory to be gone")
        assert places[0].parent.is_dir()
    assert not places[0].parent.exists(), "nothing of the worker is left"
