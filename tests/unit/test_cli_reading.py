"""What the commands know of a batch, and how they say it."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra.cli.reading import Reading
from infra.cli.sse import Event, Parser
from infra.cli.words import end, job_words, line_words

WIRE = json.loads((Path(__file__).parents[1] / "wire" / "stream.json").read_text())


def log(*numbers: int) -> Event:
    return Event("log", {"lines": [{"jobId": "j", "n": number} for number in numbers], "truncated": None}, None)


def progress(event_id: str | None, **batch: Any) -> Event:
    return Event("progress", {"jobs": [], **batch}, event_id)


@pytest.mark.parametrize("example", WIRE[:1], ids=lambda example: str(example["name"]))
def test_a_delta_is_seen_when_it_is_whole(example: dict[str, Any]) -> None:
    reading, events = Reading(), list(Parser().feed("".join(example["events"]).encode()))
    assert [reading.take(event) for event in events[:-1]] == [None] * (len(events) - 1)
    change = reading.take(events[-1])
    assert change is not None
    assert list(change.jobs.values()) == example["given"]["jobs"]
    assert change.lines == example["given"]["lines"]
    assert (reading.batch, reading.id) == (example["given"]["batch"], example["given"]["id"])


def test_what_a_cut_left_unfinished_is_forgotten_and_comes_again() -> None:
    reading = Reading()
    reading.take(log(1, 2))
    reading.restart()
    reading.take(log(1, 2, 3))
    change = reading.take(progress("a"))
    assert change is not None
    assert [line["n"] for line in change.lines] == [1, 2, 3]
    reading.take(log(2, 3, 4))
    change = reading.take(progress("b"))
    assert change is not None
    assert [line["n"] for line in change.lines] == [4]


def test_a_reset_forgets_all_but_its_own_id() -> None:
    reading = Reading()
    reading.take(log(1))
    reading.take(progress("a", version=1))
    assert reading.take(Event("reset", {"reason": "epoch"}, "nothing")) is None
    assert (reading.id, reading.batch, reading.last_lines) == ("nothing", {}, {})


def test_estimates_between_deltas_change_nothing_else() -> None:
    reading = Reading()
    reading.take(progress("a", progress=10, waiting=None, etaSeconds=None))
    assert reading.take(progress(None, progress=99, waiting={"reason": "behind"}, etaSeconds=4)) is None
    assert reading.batch == {"progress": 10, "waiting": {"reason": "behind"}, "etaSeconds": 4}


def test_what_others_wrote_cannot_steer_the_terminal() -> None:
    evil = "a\x1b[2J\x9b31m\r\n\x07b"
    job = {"id": "j", "name": evil, "status": "FAILED", "attempt": 2, "error": {"code": "x", "message": evil}}
    line = {"jobId": "j", "at": "2026-11-21T10:00:00.000Z", "level": "info", "text": evil}
    counts = {"completed": 0, "total": 1, "failed": 1, "cancelled": 0, "processing": 0}
    batch = {"status": "FAILED", "progress": 100, "counts": counts, "summary": {"x": evil}}
    for words in (job_words(job), line_words(line, {"j": job}), end(batch).replace("\n", "")):
        assert words.isprintable(), ascii(words)
    assert "at attempt 2" in job_words(job)
