"""What goes over the wire, byte by byte: examples that the browser's tests read too, and the rules for long ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.stream.frames import CHUNK, Story, encode_story, error_event, ping_event, reset_event, timeout_event
from shared.events import sse_retry
from tests.support.sse import Event, Parser

WIRE = json.loads((Path(__file__).parents[1] / "wire" / "stream.json").read_text())


def raw(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def story(**given: Any) -> Story:
    fields: dict[str, Any] = {"final": False, "whole": False, "jobs": [], "lines": [], "leftOut": 0, "id": "an-id"}
    fields |= given
    return Story(
        batch_id="b",
        batch=raw(fields.get("batch", {"batchId": "b", "version": 7})),
        final=fields["final"],
        whole=fields["whole"],
        jobs=[raw(job) for job in fields["jobs"]],
        lines=[raw(line) for line in fields["lines"]],
        left_out=fields["leftOut"],
        logs_url="/api/batches/b/logs",
        event_id=fields["id"],
    )


def told(**given: Any) -> list[Event]:
    """The events, their form checked."""
    chunks = list(encode_story(story(**given)))
    assert all(0 < len(chunk) <= CHUNK for chunk in chunks)
    parser = Parser()
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    assert parser.rest == b""
    assert [event.id for event in events] == [None] * (len(events) - 1) + ["an-id"]
    return events


def numbered(count: int, size: int) -> list[dict[str, Any]]:
    return [{"id": number, "text": "x" * size} for number in range(count)]


@pytest.mark.parametrize("example", WIRE, ids=[example["name"] for example in WIRE])
def test_wire_example(example: dict[str, Any]) -> None:
    assert b"".join(encode_story(story(**example["given"]))).decode() == "".join(example["events"])


@pytest.mark.parametrize(
    ("event", "wire"),
    [
        (ping_event(1700000000123), 'event: ping\ndata: {"timestamp":1700000000123}\n\n'),
        (timeout_event("lifetime"), 'event: timeout\ndata: {"reason":"lifetime"}\n\n'),
        (reset_event("epoch", "x-y-0-a1"), 'event: reset\nid: x-y-0-a1\ndata: {"reason":"epoch"}\n\n'),
        (
            error_event("deleted", "Gone.", retryable=False),
            'event: error\ndata: {"code":"deleted","message":"Gone.","retryable":false}\n\n',
        ),
        (sse_retry(2000), "retry: 2000\n\n"),
    ],
)
def test_other_events(event: bytes, wire: str) -> None:
    assert event.decode() == wire


def test_a_small_delta_is_one_chunk() -> None:
    chunks = list(encode_story(story(lines=numbered(5, 10), jobs=numbered(5, 10))))

    assert len(chunks) == 1


def test_many_jobs_come_in_several_events_that_each_show_the_batch() -> None:
    jobs = numbered(10_000, 300)

    events = told(jobs=jobs, whole=True)

    assert len(events) > 40
    assert {event.name for event in events} == {"progress"}
    assert all(event.data["batchId"] == "b" for event in events)
    assert [job for event in events for job in event.data["jobs"]] == jobs


def test_no_event_with_many_jobs_is_longer_than_a_chunk() -> None:
    chunks = list(encode_story(story(jobs=numbered(2_000, 300))))

    for event in b"".join(chunks).split(b"\n\n"):
        assert len(event) + 2 <= CHUNK


def test_many_lines_come_in_several_events_and_the_first_says_what_was_left_out() -> None:
    lines = numbered(100, 4_000)

    *logs, progress = told(lines=lines, leftOut=3)

    assert len(logs) > 5
    assert [line for event in logs for line in event.data["lines"]] == lines
    assert logs[0].data["truncated"]["count"] == 3
    assert all(event.data["truncated"] is None for event in logs[1:])
    assert progress.name == "progress"


def test_lines_left_out_are_told_even_if_there_is_none_to_show() -> None:
    log, _ = told(leftOut=3)

    assert log.data == {"batchId": "b", "lines": [], "truncated": {"count": 3, "logsUrl": "/api/batches/b/logs"}}


@pytest.mark.parametrize("whole", [False, True])
def test_more_jobs_than_fit_come_before_complete(whole: bool) -> None:
    jobs = numbered(300, 300)

    *progress, complete = told(jobs=jobs, final=True, whole=whole)

    assert complete.name == "complete"
    assert complete.data["jobs"] == []
    assert [job for event in progress for job in event.data["jobs"]] == jobs


def test_jobs_of_just_the_size_of_a_chunk_come_with_complete() -> None:
    def job(size: int) -> dict[str, Any]:
        return {"id": "x" * size}

    empty = len(raw([job(0)]))

    assert [event.name for event in told(jobs=[job(CHUNK - empty)], final=True)] == ["complete"]
    assert [event.name for event in told(jobs=[job(CHUNK - empty + 1)], final=True)] == ["progress", "complete"]


def test_a_batch_longer_than_a_chunk_is_cut_into_chunks() -> None:
    batch = {"batchId": "b", "summary": "x" * 3 * CHUNK}

    (event,) = told(batch=batch, jobs=numbered(3, 10))

    assert event.data["summary"] == batch["summary"]
    assert len(event.data["jobs"]) == 3
