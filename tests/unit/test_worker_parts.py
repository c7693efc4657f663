"""The small rules of the worker: retries, and what may be stored."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from msgspec import Struct, structs

from services.worker.retries import after_failure
from services.worker.run import Run
from shared.jobs import JobStatus
from shared.kinds.kind import Kind
from shared.texts import clean, holds_nul
from shared.updates import Job, Log, Progress, Step

KIND = Kind(name="k", title="", params=Struct, max_attempts=4, backoff=(1, 3))


@pytest.mark.parametrize(
    ("failures", "options", "expected"),
    [
        (0, {}, (JobStatus.QUEUED, 0.5)),
        (1, {}, (JobStatus.QUEUED, 1.0)),
        (2, {}, (JobStatus.QUEUED, 1.5)),  # three seconds at most, not four
        (3, {}, (JobStatus.FAILED, None)),
        (0, {"fatal": True}, (JobStatus.FAILED, None)),
        (0, {"after": 7.0}, (JobStatus.QUEUED, 7.0)),
        (0, {"after": -7.0}, (JobStatus.QUEUED, 0.0)),
        (0, {"after": 1e9}, (JobStatus.QUEUED, 86_400.0)),
        (0, {"after": float("inf")}, (JobStatus.QUEUED, 86_400.0)),
        (0, {"after": 10**400}, (JobStatus.QUEUED, 86_400.0)),
        (0, {"after": float("nan")}, (JobStatus.QUEUED, 0.5)),  # as if it were not there
        (0, {"after": "soon"}, (JobStatus.QUEUED, 0.5)),
    ],
)
def test_backoff(failures: int, options: dict[str, float], expected: tuple[JobStatus, float | None]) -> None:
    assert after_failure(KIND, failures, lambda: 0.5, **options) == expected  # type: ignore[arg-type]


def test_a_kind_with_very_many_attempts_keeps_to_its_longest_wait() -> None:
    assert after_failure(structs.replace(KIND, max_attempts=10**6), 5000, lambda: 0.5) == (JobStatus.QUEUED, 1.5)


def test_a_wait_is_stored_as_one_type_whatever_the_handler_wrote() -> None:
    """PostgreSQL takes the waits of several jobs as one array."""
    _, wait = after_failure(KIND, 0, lambda: 0.5, after=7)
    assert isinstance(wait, float)


@pytest.mark.parametrize(
    ("json", "holds"),
    [
        (b'"a"', False),
        (rb'"\u0000"', True),
        (rb'"\\\u0000"', True),
        (rb'"\\u0000"', False),
        (rb'["x", {"\u0000": 1}]', True),
    ],
)
def test_a_nul_is_told_from_a_text_about_it(json: bytes, *, holds: bool) -> None:
    assert holds_nul(json) is holds


@pytest.mark.parametrize(
    ("text", "limit", "stored"),
    [
        ("fine", 100, "fine"),
        ("a\0b", 100, "ab"),
        ("lone \ud800 surrogate", 100, "lone ? surrogate"),
        ("x" * 101, 100, "x" * 90 + " … (cut)"),
        ("ä" * 60, 100, "ä" * 45 + " … (cut)"),
    ],
)
def test_text_is_made_storable(text: str, limit: int, stored: str) -> None:
    assert clean(text, limit) == stored
    assert len(clean(text, limit).encode()) <= limit


def make_run(tmp_path: object = None) -> Run:
    job = Job(uuid4(), uuid4(), "anna", "job", 1, uploads=None)  # type: ignore[arg-type]
    return Run(job, "k", {}, uuid4(), failures=0, last_line=7)


def test_progress_merges_never_falls_and_stays_below_100() -> None:
    run = make_run()
    for percent in (10, 250, 20, float("nan"), -3):
        run.say(Progress(percent), datetime.now(UTC), max_line=100, max_lines=100)
    run.say(Progress(message="half"), datetime.now(UTC), max_line=100, max_lines=100)
    update, _ = run.take()
    assert (update.progress, update.message, update.step) == (99, "half", None)
    run.say(Step("next", 5), datetime.now(UTC), max_line=100, max_lines=100)
    update, lines = run.take()
    assert (update.progress, update.message, update.step) == (99, None, "next")
    assert [(line.n, line.level, line.text) for line in lines] == [(8, "phase", "next")]


def test_the_last_line_that_is_kept_says_so() -> None:
    run = make_run()
    for n in range(10):
        run.say(Log(f"line {n}"), datetime.now(UTC), max_line=200, max_lines=10)
    update, lines = run.take()
    assert [line.n for line in lines] == [8, 9, 10]
    assert "no more than 10 log lines" in lines[-1].text
    assert update.last_line == 10
