"""Every way in which a handler can fail: it fails its own job, and nothing else."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from shared.kinds import KINDS
from shared.settings import Settings
from shared.updates import Fatal, Items, Job, Log, Progress, Step, Updates
from tests.support.batches import (
    assert_consistent,
    job_rows,
    wait_finished,
    wait_for,
)
from tests.support.working import Nothing, kind_of, submit, working


def raises(params: Nothing, job: Job) -> Updates[None]:
    yield Progress(10)
    raise ValueError("the invoice has no address")


def raises_system_exit(params: Nothing, job: Job) -> Updates[None]:
    yield Progress(10)
    raise SystemExit(3)


def fatal(params: Nothing, job: Job) -> Updates[None]:
    yield Progress(10)
    raise Fatal("no such customer", code="no_customer")


def unencodable(params: Nothing, job: Job) -> Updates[object]:
    yield Progress(10)
    return object()


def too_large(params: Nothing, job: Job) -> Updates[str]:
    yield Progress(10)
    return "x" * 300_000


def nul(params: Nothing, job: Job) -> Updates[str]:
    yield Progress(10)
    return "a\0b"


def no_generator(params: Nothing, job: Job) -> int:
    return 42


def yields_nonsense(params: Nothing, job: Job) -> Updates[None]:
    yield "half way"  # type: ignore[misc]


def endless(params: Nothing, job: Job) -> Updates[None]:
    while True:
        yield Progress(50)
        time.sleep(0.01)


def never_yields(params: Nothing, job: Job) -> Updates[None]:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        pass
    yield Progress(50)


def nonsense_level(params: Nothing, job: Job) -> Updates[None]:
    yield Log("half way", "fine")  # type: ignore[arg-type]


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def speechless(params: Nothing, job: Job) -> Updates[None]:
    yield Progress(10)
    raise SpeechlessError


def negative_items(params: Nothing, job: Job) -> Updates[None]:
    yield Progress(items=Items(-1))


FAILURES: list[tuple[Callable[..., Any], str, str]] = [
    (raises, "exception", "ValueError: the invoice has no address"),
    (raises_system_exit, "exception", "SystemExit: 3"),
    (fatal, "no_customer", "no such customer"),
    (unencodable, "unencodable_result", "cannot be encoded as JSON"),
    (too_large, "result_too_large", "at most 262144"),
    (nul, "unencodable_result", "NUL"),
    (no_generator, "no_generator", "must yield at least once"),
    (yields_nonsense, "exception", "Artifact or None, not str"),
    (endless, "time_limit", "time limit of 1 s"),
    (never_yields, "time_limit", "past its time limit"),
    (negative_items, "exception", "whole numbers"),
    (nonsense_level, "exception", "one of phase, info, success"),
    (speechless, "exception", "cannot be described"),
]


@pytest.fixture
def work(settings: Settings) -> Callable[..., Any]:
    """A worker that runs the given handlers, and `rehearsal`, while the `with` block lasts."""
    return partial(working, settings)


def test_a_job_of_a_kind_that_the_worker_does_not_know_is_told_of_and_tried_again(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any]
) -> None:
    with capture_logs() as said, work():
        batch_id = submit(engine, settings, 1, kind_of(raises))
        job = wait_for(lambda: next((job for job in job_rows(engine, batch_id) if job.failures), None), "its failure")
    assert (job.status, job.error_code) == ("QUEUED", "no_handler")
    (line,) = (line for line in said if line["log_level"] == "error")
    assert line == {"event": "a job has no handler here", "log_level": "error", "job": str(job.id), "kind": "raises"}


@pytest.mark.parametrize(("handler", "code", "message"), FAILURES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_failing_handler_fails_its_job_and_not_the_worker(
    engine: sa.Engine,
    settings: Settings,
    work: Callable[..., Any],
    handler: Callable[..., Any],
    code: str,
    message: str,
) -> None:
    bad = submit(engine, settings, 2, kind_of(handler))
    with work(handler):
        batch = wait_finished(engine, bad)
        good = submit(engine, settings, 8, params={"steps": 1, "stepMs": 1})
        assert wait_finished(engine, good).status == "COMPLETED"
    assert batch.status == "FAILED"
    for job in job_rows(engine, bad):
        assert (job.status, job.error_code) == ("FAILED", code)
        assert message in job.error_message
    assert_consistent(engine, bad)


def test_attempts_are_limited(engine: sa.Engine, settings: Settings, work: Callable[..., Any]) -> None:
    batch_id = submit(engine, settings, 1, kind_of(raises))
    with work(raises, max_attempts=3):
        wait_finished(engine, batch_id)
    (job,) = job_rows(engine, batch_id)
    assert (job.status, job.attempt, job.failures) == ("FAILED", 3, 3)
    assert_consistent(engine, batch_id)


def test_what_postgresql_refuses_fails_its_own_job_only(
    engine: sa.Engine, settings: Settings, work: Callable[..., Any]
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE jobs ADD CHECK (result IS NULL OR result <> '\"refused\"'::jsonb)"))

    def refused(params: Nothing, job: Job) -> Updates[str]:
        yield Step("about to be refused")
        return "refused" if job.name == "job 1" else "fine"

    batch_id = submit(engine, settings, 4, kind_of(refused))
    with work(refused):
        batch = wait_finished(engine, batch_id)
    assert (batch.status, batch.completed, batch.failed) == ("PARTIAL", 3, 1)
    assert job_rows(engine, batch_id)[1].error_code == "unstorable"
    assert_consistent(engine, batch_id)


@pytest.mark.parametrize("how", ["raises", "holds a NUL"])
def test_results_that_cannot_be_summarised_do_not_hold_the_batch(
    engine: sa.Engine,
    settings: Settings,
    work: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    def summarise(results: Iterable[int]) -> str:
        if how == "raises":
            raise KeyError(sum(results))
        return "a\0b"

    def seven(params: Nothing, job: Job) -> Updates[int]:
        yield Progress(10)
        return 7

    kind = kind_of(seven, summarise=summarise)
    monkeypatch.setitem(KINDS, kind.name, kind)
    batch_id = submit(engine, settings, 2, kind)
    with work(seven, summarise=summarise):
        batch = wait_finished(engine, batch_id)
    assert (batch.status, batch.summary) == ("COMPLETED", None)
    assert [job.attempt for job in job_rows(engine, batch_id)] == [1, 1]
    assert_consistent(engine, batch_id)
