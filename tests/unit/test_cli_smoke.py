"""The smoke test must see what is wrong: streams that break one rule each."""

from collections.abc import Callable
from typing import Any

import pytest

from infra.cli.smoketest.checks import Checks, Wrong
from infra.cli.smoketest.events import check_lines, check_monotone, check_order, check_snapshot
from infra.cli.smoketest.feed import Told
from infra.cli.smoketest.recording import Recording
from infra.cli.sse import Event

Json = dict[str, Any]
COUNTS = {"queued": 1, "processing": 1, "completed": 0, "failed": 0, "cancelled": 0, "total": 2}


def job(number: int, progress: int = 0, attempt: int = 1) -> Json:
    return {"id": f"j{number}", "name": f"j{number}", "position": number, "progress": progress, "attempt": attempt}


def progress(event_id: str | None, version: int, percent: int, *jobs: Json, counts: Json | None = None) -> Event:
    data = {"batchId": "b", "version": version, "progress": percent, "counts": counts or COUNTS, "jobs": list(jobs)}
    return Event("progress", data, event_id)


def log(*numbers: int, job_id: str = "j0") -> Event:
    lines = [{"jobId": job_id, "n": number} for number in numbers]
    return Event("log", {"lines": lines, "truncated": None}, None)


def complete(event_id: str | None, version: int) -> Event:
    return Event("complete", {**progress(None, version, 100).data}, event_id)


def recording(*events: Event) -> Recording:
    return Recording(200, {}, b"", list(events), ended=True)


GOOD = (
    log(1),
    progress("a", 1, 0, job(0), job(1)),
    Event("ping", {"timestamp": 1}, None),
    progress(None, 1, 0),
    log(2, 3),
    progress("b", 2, 40, job(0, 80)),
    log(4),
    log(1, job_id="j1"),
    complete("c", 3),
)


def check_all(given: Recording) -> None:
    check_snapshot(given, "b", 2)
    check_order(given)
    check_monotone(given)
    check_lines(given, 2)


def test_a_stream_as_it_should_be_passes() -> None:
    check_all(recording(*GOOD))


def without(number: int) -> Callable[[], tuple[Event, ...]]:
    return lambda: GOOD[:number] + GOOD[number + 1 :]


def instead(number: int, *events: Event) -> Callable[[], tuple[Event, ...]]:
    return lambda: GOOD[:number] + events + GOOD[number + 1 :]


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (instead(1, progress("a", 1, 0, job(0))), "positions"),
        (instead(1, progress("ä b", 1, 0, job(0), job(1))), "its id is"),
        (instead(5, progress("a", 2, 40)), "ids come twice"),
        (instead(5, progress(None, 2, 40, job(0, 80)), log(9)), "order of a delta"),
        (instead(5, progress("b", 1, 40)), "version 1 follows 1"),
        (instead(1, progress("a", 1, 50, job(0), job(1))), "40 % follows 50 %"),
        (instead(1, progress("a", 1, 0, job(0, 90), job(1))), "j0 falls from 90 % to 80 %"),
        (instead(5, progress("b", 2, 40, counts={**COUNTS, "queued": 2})), "sum of the counters"),
        (instead(4, log(2, 4)), "numbers of the lines"),
        (instead(4, log(2, 2, 3)), "numbers of the lines"),
        (without(7), "number of jobs that said something"),
        (without(8), "without an id"),
        (instead(8, complete("c", 3), complete("d", 4)), "number of `complete`"),
        (instead(8, Event("fireworks", {}, "c")), "another kind"),
    ],
)
def test_a_stream_that_breaks_a_rule_does_not(events: Callable[[], tuple[Event, ...]], words: str) -> None:
    with pytest.raises(Wrong, match=words):
        check_all(recording(*events()))


def batch(version: int, **fields: Any) -> Event:
    return Event("batch", {"batchId": "b", "version": version, **fields}, None)


ALL = Event("batches", {"items": [batch(3).data]}, None)
DELETED = Event("batch", {"batchId": "b", "deleted": True}, None)


def tell(*events: Event) -> Told:
    told = Told()
    for event in events:
        told.take(event)
    return told


def test_a_feed_as_it_should_be_passes() -> None:
    told = tell(ALL, Event("ping", {"timestamp": 1}, None), batch(4), batch(7), ALL, batch(4), DELETED)
    assert not told.batches
    assert told.deleted == {"b"}


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([batch(1)], "does not begin"),
        ([ALL, batch(3)], "version 3 follows 3"),
        ([ALL, DELETED, batch(4)], "told of again"),
        ([ALL, batch(4, jobs=[])], "tells of jobs"),
        ([ALL, Event("batch", batch(4).data, "an id")], "carries an id"),
        ([ALL, progress(None, 4, 10)], "there is a `progress`"),
    ],
)
def test_a_feed_that_breaks_a_rule_does_not(events: list[Event], words: str) -> None:
    with pytest.raises(Wrong, match=words):
        tell(*events)


def test_a_check_that_fails_or_breaks_is_reported_and_the_rest_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    checks = Checks()
    with checks.check("one"):
        raise Wrong("it is not so")
    with checks.check("two"):
        recording(Event("progress", [], "x")).events[0].data["jobs"]
    with checks.check("three"):
        pass
    said = capsys.readouterr().out
    assert "✗ FAILED: one: it is not so\n" in said
    assert "✗ FAILED: two: unexpected answer" in said
    assert "✓ passed: three\n" in said
    assert checks.verdict().startswith("2 of 3 checks failed")
