"""What goes out over a WebSocket: the same story in the form of each topic; and commands, as they come in."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs
from websockets.frames import Frame, Opcode

from services.stream.frames import CHUNK, Story
from services.stream.messages import (
    JobEncoder,
    batch_event_id,
    encode_batch,
    encode_logs,
    job_event_id,
    message,
    read_command,
)
from shared.errors import HeadwayError
from shared.event_ids import EventId, Filters, batch_check
from shared.web.conversation import Auth, Subscribe, Unsubscribe
from shared.web.sockets import text_frame

BATCH, JOB, OTHER = (UUID(int=number << 64 | 7 << 76 | 1 << 63) for number in (1, 2, 3))
ID = str(EventId("0123abcd", batch_check(BATCH), 9, Filters()))


def job(of: UUID, **more: Any) -> bytes:
    return json.dumps({"id": str(of), **more}, separators=(",", ":")).encode()


def line(of: UUID, n: int, **more: Any) -> bytes:
    return json.dumps({"jobId": str(of), "attempt": 1, "n": n, **more}, separators=(",", ":")).encode()


STORY = Story(
    batch_id=str(BATCH),
    batch=b'{"version":9}',
    final=False,
    whole=False,
    jobs=[],
    lines=[],
    left_out=0,
    logs_url="/logs",
    event_id=ID,
)


def said(encode: Callable[[Story], Iterator[bytes]], **story: Any) -> list[tuple[str, str | None, Any]]:
    """Type, id and data of each message."""
    messages = [json.loads(one) for one in encode(structs.replace(STORY, **story))]
    assert {one["topic"] for one in messages} <= {f"batch:{BATCH}", f"logs:{BATCH}", f"job:{JOB}"}
    return [(one["type"], one["id"], one["data"]) for one in messages]


def kinds(encode: Callable[[Story], Iterator[bytes]], **story: Any) -> list[tuple[str, bool]]:
    """The types of the messages, and which carry the id."""
    return [(kind, event_id is not None) for kind, event_id, _ in said(encode, **story)]


@pytest.mark.parametrize(
    ("story", "batch", "logs", "mine"),
    [
        ({"whole": True}, [("progress", True)], [("log", True)], [("progress", True)]),
        ({}, [("progress", True)], [], []),
        ({"jobs": [job(OTHER)]}, [("progress", True)], [], []),
        ({"jobs": [job(JOB)]}, [("progress", True)], [], [("progress", True)]),
        ({"final": True}, [("complete", True)], [("complete", True)], [("complete", True)]),
        (
            {"final": True, "whole": True, "jobs": [job(JOB)]},
            [("progress", False), ("complete", True)],
            [("log", False), ("complete", True)],
            [("progress", False), ("complete", True)],
        ),
    ],
)
def test_each_topic_tells_its_part_and_only_the_last_message_has_an_id(
    story: dict[str, Any],
    batch: list[tuple[str, bool]],
    logs: list[tuple[str, bool]],
    mine: list[tuple[str, bool]],
) -> None:
    assert kinds(encode_batch, **story) == batch
    assert kinds(encode_logs, **story | {"jobs": []}) == logs
    assert kinds(JobEncoder(JOB), **story) == mine


def test_lines_are_told_by_logs_and_by_their_job() -> None:
    lines = [line(OTHER, 1), line(JOB, 1), line(OTHER, 2)]
    (log,) = said(encode_logs, lines=lines)
    assert (log[0], log[1]) == ("log", ID)
    assert [one["n"] for one in log[2]["lines"]] == [1, 1, 2]
    log, progress = said(JobEncoder(JOB), lines=lines)
    assert (log[0], log[1], progress[0], progress[1]) == ("log", None, "progress", job_event_id(ID, JOB))
    assert [one["jobId"] for one in log[2]["lines"]] == [str(JOB)]
    assert progress[2]["jobs"] == []


@pytest.mark.parametrize(
    ("story", "truncated"),
    [
        ({"whole": True, "lines": [line(JOB, 1)], "left_out": 40}, None),
        ({"whole": True, "lines": [line(JOB, 8), line(JOB, 9)], "left_out": 40}, 7),
        ({"whole": True, "lines": [line(OTHER, 1)], "left_out": 40}, 40),
        ({"lines": [line(JOB, 8)], "left_out": 3}, 3),
        ({"lines": [line(OTHER, 8)], "left_out": 3}, 3),
    ],
)
def test_a_job_says_how_many_lines_it_lacks_at_most(story: dict[str, Any], truncated: int | None) -> None:
    log = next(data for kind, _, data in said(JobEncoder(JOB), **story) if kind == "log")
    assert log["truncated"] == (truncated and {"count": truncated, "logsUrl": f"/logs?job={JOB}"})


def test_no_message_is_longer_than_a_chunk() -> None:
    jobs = [job(JOB, name="x" * 300) for _ in range(1000)]
    lines = [line(JOB, n, text="x" * 300) for n in range(1, 1000)]
    for encode in (encode_batch, encode_logs, JobEncoder(JOB)):
        messages = list(encode(structs.replace(STORY, whole=True, jobs=jobs, lines=lines)))
        assert len(messages) > 3
        assert max(map(len, messages)) <= CHUNK
        assert [json.loads(one)["id"] is not None for one in messages] == [False] * (len(messages) - 1) + [True]


def test_ids_of_a_job_are_of_no_other_and_not_of_its_batch() -> None:
    mine = job_event_id(ID, JOB)
    assert mine != ID
    assert batch_event_id(mine, JOB, BATCH) == ID
    for foreign in (ID, job_event_id(ID, OTHER), "nonsense", ""):
        assert batch_event_id(foreign, JOB, BATCH) == "none"


def test_what_is_in_a_message_cannot_break_out_of_it() -> None:
    topic = '","data":{}} \u2028 é'
    assert json.loads(message("progress", topic, b'{"a":1}')) == {
        "type": "progress",
        "topic": topic,
        "id": None,
        "data": {"a": 1},
    }


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65_535, 65_536, 200_000])
def test_a_frame_is_what_the_library_makes_of_it(size: int) -> None:
    text = b"x" * size
    assert text_frame(text) == Frame(Opcode.TEXT, text).serialize(mask=False)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ('{"type":"auth","token":"x"}', Auth("x")),
        ('{"topic":"a","type":"subscribe"}', Subscribe("a")),
        ('{"type":"subscribe","topic":"a","since":null}', Subscribe("a")),
        (' {"type":"subscribe","topic":"a","since":"b"} ', Subscribe("a", "b")),
        ('{"type":"unsubscribe","topic":"a"}', Unsubscribe("a")),
    ],
)
def test_commands_are_understood(text: str, command: object) -> None:
    assert read_command(text) == command


@pytest.mark.parametrize(
    "text", ["", "1", "[]", "{}", '{"type":"auth"}', '{"type":"auth","token":1}', '{"type":"x"}', "[" * 9999, "NaN"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(HeadwayError):
        read_command(text)
