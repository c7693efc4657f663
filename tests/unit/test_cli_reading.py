"""What the commands know of a batch, and how they say it."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.cli.api import complaint
from infra.cli.reading import Reading
from infra.cli.sse import Event, Parser
from infra.cli.words import counts_words, end, job_words, line_words, waiting_words
from shared.events import encode, sse
from tests.support.wire import golden

WIRE = json.loads((Path(__file__).parents[1] / "wire" / "stream.json").read_text())
SCENES = golden("events.json")
PROBLEMS = golden("problems.json")


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


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: str(scene["name"]))
def test_what_the_server_sends_is_understood(scene: dict[str, Any]) -> None:
    sent = [sse(event["event"], encode(event["data"]), event["id"]) for event in scene["events"]]
    events = list(Parser().feed(b"".join(sent)))
    assert [(event.name, event.id, event.data) for event in events] == [
        (event["event"], event["id"], event["data"]) for event in scene["events"]
    ]
    reading = Reading()
    changes = [change for event in events if (change := reading.take(event)) is not None]
    told = [event for event in events if event.name in {"progress", "complete"}]
    assert len(changes) == bool(told)  # each scene is one delta, or none
    if told:
        assert reading.id == events[-1].id
        assert reading.batch | {"jobs": told[-1].data["jobs"]} == told[-1].data
        assert reading.jobs == {job["id"]: job for event in told for job in event.data["jobs"]}
        assert changes[0].lines == [line for event in events for line in event.data.get("lines", ())]
        assert reading.complete == (events[-1].name == "complete")
        assert all(job_words(job).isprintable() for job in reading.jobs.values())
        assert all(line_words(line, reading.jobs).isprintable() for line in changes[0].lines)


def test_batches_and_jobs_that_the_server_gives_have_words() -> None:
    bodies = [reply["body"] for reply in golden("replies.json") if isinstance(reply["body"], dict)]
    things = [thing for body in bodies for thing in (body["items"] if "nextCursor" in body else [body])]
    batches = [thing for thing in things if "counts" in thing]
    jobs = [thing for thing in things if "position" in thing]
    assert len(batches) > 5
    assert len(jobs) > 5
    assert all(end(batch).replace("\n", "").isprintable() for batch in batches)
    assert all(job_words(job).isprintable() for job in jobs)


@pytest.mark.parametrize("code", PROBLEMS)
def test_every_refusal_has_words(code: str) -> None:
    problem = PROBLEMS[code]
    request = httpx.Request("GET", "http://headway/api")
    words = complaint(httpx.Response(problem["status"], json=problem["body"], request=request))
    assert words.startswith(problem["body"]["detail"])
    assert all(error["path"] in words and error["message"] in words for error in problem["body"].get("errors", ()))


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
    change = reading.take(progress(None, progress=99, waiting={"reason": "behind"}, etaSeconds=4))
    assert change is not None, "there is something to see"
    assert (change.jobs, change.lines) == ({}, [])
    assert reading.batch == {"progress": 10, "waiting": {"reason": "behind"}, "etaSeconds": 4}
    assert reading.id == "a"


WAITING = [
    (None, ""),
    ({"reason": "paused"}, ""),
    ({"reason": "no_worker"}, "no worker is there"),
    ({"reason": "behind", "ahead": 3, "until": "2026-11-21T10:00:00.000Z"}, "3 jobs ahead in the queue until "),
    ({"reason": "behind", "ahead": 0}, "all workers are busy"),
    ({"reason": "delayed", "until": "2026-11-21T10:00:00.000Z"}, "nothing is to start until "),
    ({"reason": "delayed", "after": "b"}, "begins when another batch has ended"),
    ({"reason": "limited"}, "as many jobs as allowed"),
    ({"reason": "something of a later server"}, ""),
]


@pytest.mark.parametrize(("waiting", "words"), WAITING)
def test_why_a_batch_waits(waiting: dict[str, Any] | None, words: str) -> None:
    said = waiting_words({"waiting": waiting})
    assert said.startswith(words)
    assert bool(said) == bool(words)


def test_an_open_batch_of_which_all_is_done_waits_for_more() -> None:
    counts = {"queued": 0, "processing": 0, "completed": 2, "failed": 0, "cancelled": 0, "total": 2}
    assert counts_words({"counts": counts, "open": True}) == "2 of 2 so far done, waiting for more jobs"
    assert counts_words({"counts": counts, "open": False}) == "2 of 2 done"
    assert counts_words({"counts": counts | {"queued": 1, "total": 3}, "open": True}) == "2 of 3 so far done"


def test_one_job_ahead_is_one_job() -> None:
    assert waiting_words({"waiting": {"reason": "behind", "ahead": 1}}) == "1 job ahead in the queue"


def test_what_others_wrote_cannot_steer_the_terminal() -> None:
    evil = "a\x1b[2J\x9b31m\r\n\x07b"
    job = {"id": "j", "name": evil, "status": "FAILED", "attempt": 2, "error": {"code": "x", "message": evil}}
    line = {"jobId": "j", "at": "2026-11-21T10:00:00.000Z", "level": "info", "text": evil}
    counts = {"completed": 0, "total": 1, "failed": 1, "cancelled": 0, "processing": 0}
    batch = {"status": "FAILED", "progress": 100, "counts": counts, "summary": {"x": evil}}
    for words in (job_words(job), line_words(line, {"j": job}), end(batch).replace("\n", "")):
        assert words.isprintable(), ascii(words)
    assert "at attempt 2" in job_words(job)
