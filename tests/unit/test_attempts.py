"""Attempts, as a job's transitions tell them, and what a transition says of a failure."""

from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from services.api.attempts import attempts_of
from shared.events import Failure
from shared.jobs import JobStatus
from shared.rows import failure_of, failure_text

FAILURES = [
    Failure("no_customer", "no such customer"),
    Failure("odd: code", "there: is more: of it"),
    Failure("odd:: \\: ", ": "),
    Failure("\\", "\\\nand a second line"),
    Failure("", ""),
]


@pytest.mark.parametrize("failure", FAILURES)
def test_code_and_message_come_back_as_they_were(failure: Failure) -> None:
    assert failure_of(failure_text(failure)) == failure


def test_most_failures_are_written_as_one_would_say_them() -> None:
    assert failure_text(FAILURES[0]) == "no_customer: no such customer"


def test_each_attempt_keeps_its_error() -> None:
    def told() -> Iterator[Any]:
        moment = datetime(2026, 11, 1, tzinfo=UTC)
        for attempt, failure in enumerate(FAILURES, start=1):
            started = {"old_status": JobStatus.QUEUED, "new_status": JobStatus.PROCESSING, "message": None}
            ended = {"old_status": JobStatus.PROCESSING, "new_status": JobStatus.QUEUED}
            yield SimpleNamespace(attempt=attempt, at=moment, **started)
            yield SimpleNamespace(attempt=attempt, at=moment, message=failure_text(failure), **ended)

    attempts = attempts_of(told())
    assert [(attempt.attempt, attempt.error) for attempt in attempts] == list(enumerate(FAILURES, start=1))
