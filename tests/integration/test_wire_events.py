"""Every event in every form as the real server sends it, against tests/wire/events.json and the OpenAPI document.

The browser's client and the command read the same file.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from services.stream.app import create_app
from shared.auth import issue_token
from shared.event_ids import parse_event_id
from shared.events import EVENTS, FEED_EVENTS, ErrorCode, ResetReason, TimeoutReason
from shared.jobs import JobStatus
from shared.settings import Settings
from tests.support.batches import OWNER
from tests.support.feeds import FeedStream
from tests.support.openapi import validate_component
from tests.support.ports import own_port
from tests.support.sse import Event, Record, Stream
from tests.support.streams import stream_process
from tests.support.web import served
from tests.support.wire import Normal, compare, golden
from tests.support.writer import Writer

Scene = dict[str, Any]


class Recorder:
    def __init__(self, engine: sa.Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.token = issue_token(settings, OWNER)
        self.scenes: list[Scene] = []
        self.writers: list[Writer] = []

    def close(self) -> None:
        for writer in self.writers:
            writer.close()

    def writer(self, jobs: int = 1) -> Writer:
        self.writers.append(Writer(self.engine, self.settings, jobs))
        return self.writers[-1]

    @contextmanager
    def watching(self, writer: Writer, last_id: str = "", **query: Any) -> Iterator[Stream]:
        settings = replace(self.settings, **query.pop("settings", {}))
        with (
            served(create_app(settings)) as address,
            Stream(address, writer.batch_id, query.pop("token", self.token), record=Record(last_id), **query) as stream,
        ):
            yield stream

    def note(self, name: str, events: list[Event]) -> None:
        scene = [{"event": event.name, "id": event.id, "data": event.data} for event in events]
        self.scenes.append({"name": name, "events": scene})


@pytest.fixture
def recorder(engine: sa.Engine, settings: Settings) -> Iterator[Recorder]:
    recorder = Recorder(engine, settings)
    yield recorder
    recorder.close()


def record_a_run(recorder: Recorder) -> None:
    writer = recorder.writer(jobs=2)
    with recorder.watching(writer) as stream:
        recorder.note("a first snapshot", stream.delta())
        writer.start(0)
        recorder.note("a job starts", stream.delta())
        writer.progress(0, 40, lines=2, step="painting", message="2 of 5")
        recorder.note("progress, and lines before it", stream.delta())
        writer.finish(0, lines=1)
        recorder.note("a job ends", stream.delta())
        writer.start(1)
        stream.delta()
        writer.finish(1, JobStatus.FAILED)
        recorder.note("the last job ends: complete, without a progress before it", stream.rest())
        last_id = stream.record.id
    with recorder.watching(writer) as stream:
        recorder.note("the snapshot of a finished batch: all in progress, and again in complete", stream.rest())
    with recorder.watching(writer, logs=1) as stream:
        recorder.note("older lines are left out, and it is said where they are", stream.rest())
    with recorder.watching(writer, jobs="none", logs=0) as stream:
        recorder.note("neither jobs nor lines", stream.rest())
    record_resets(recorder, writer, last_id)


def record_resets(recorder: Recorder, writer: Writer, last_id: str) -> None:
    event_id = parse_event_id(last_id)
    assert event_id is not None
    unknown = {
        "epoch": replace(event_id, epoch="00000000"),
        "ahead": replace(event_id, version=event_id.version + 100),
        "invalid_id": replace(event_id, check="0000" if event_id.check != "0000" else "0001"),
    }
    for reason, other in unknown.items():
        with recorder.watching(writer, str(other)) as stream:
            recorder.note(f"an id that cannot be gone on from: {reason}", stream.rest()[:1])
    with recorder.watching(writer, last_id, logs=7) as stream:
        recorder.note("an id that cannot be gone on from: filters", stream.rest())


def record_ends(recorder: Recorder) -> None:
    writer = recorder.writer()
    with recorder.watching(writer, settings={"heartbeat": 0.2}) as stream:
        stream.delta()
        recorder.note("silence", [stream.next()])
    with recorder.watching(writer, settings={"lifetime": 0.3}) as stream:
        recorder.note("a stream gets old", stream.rest()[-1:])
    with recorder.watching(writer, token=issue_token(recorder.settings, OWNER, ttl=3)) as stream:
        recorder.note("a token expires", stream.rest()[-1:])
    with (
        served(create_app(replace(recorder.settings, owner_viewers=1))) as address,
        Stream(address, writer.batch_id, recorder.token) as first,
    ):
        first.delta()
        with Stream(address, writer.batch_id, recorder.token) as second:
            recorder.note("too many streams", second.rest())
    with recorder.watching(writer, settings={"database_url": f"postgresql://127.0.0.1:{own_port()}/nothing"}) as stream:
        recorder.note("the database is away", stream.rest())
    with (
        stream_process(recorder.settings) as (address, process),
        Stream(address, writer.batch_id, recorder.token) as stream,
    ):
        stream.delta()
        process.send_signal(signal.SIGTERM)
        recorder.note("the server leaves", stream.rest())
    record_deletion(recorder, recorder.writer())
    with recorder.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE batches DROP CONSTRAINT ck_batches_status")
        connection.exec_driver_sql("UPDATE batches SET status = 'NONSENSE'")
    with recorder.watching(writer) as stream:
        recorder.note("the server makes a mistake", stream.rest())


def record_deletion(recorder: Recorder, writer: Writer) -> None:
    with recorder.watching(writer) as stream:
        stream.delta()
        writer.delete()
        recorder.note("the batch is deleted", stream.rest())


def record_a_feed(recorder: Recorder) -> None:
    writer = recorder.writer()
    settings = replace(recorder.settings, window=0, heartbeat=0.5)
    with served(create_app(settings)) as address, FeedStream(address, recorder.token) as stream:
        recorder.note("all batches first", [stream.next()])
        other = recorder.writer(jobs=2)
        recorder.note("another one is made", told(stream))
        writer.start(0)
        recorder.note("a job starts", told(stream))
        writer.finish(0)
        recorder.note("a batch ends, and nothing else does", told(stream))
        other.delete()
        recorder.note("a batch is deleted", told(stream))
        recorder.note("silence", [stream.next()])
    with served(create_app(replace(settings, lifetime=0.3))) as address, FeedStream(address, recorder.token) as stream:
        recorder.note("a stream gets old", stream.rest()[-1:])
    with (
        served(create_app(replace(settings, owner_viewers=1))) as address,
        FeedStream(address, recorder.token) as first,
    ):
        recorder.note("whoever comes again is shown everything again", [first.next()])
        with FeedStream(address, recorder.token) as second:
            recorder.note("too many streams", second.rest())


def told(stream: FeedStream) -> list[Event]:
    """The next event that is no ping."""
    return stream.until(lambda event: event.name != "ping")[-1:]


def test_the_server_sends_these_of_all_batches(recorder: Recorder, rewrite_wire: bool) -> None:
    recorder.settings = replace(recorder.settings, version_check=0.2)
    record_a_feed(recorder)
    compare("feed.json", Normal()(recorder.scenes), rewrite=rewrite_wire)


def test_every_form_of_a_feeds_events_is_among_them() -> None:
    shown = [event for scene in golden("feed.json") for event in scene["events"]]
    assert {event["event"] for event in shown} == set(FEED_EVENTS)
    for event in shown:
        assert event["id"] is None
        form = FEED_EVENTS[event["event"]][-1 if "deleted" in event["data"] else 0]
        validate_component(event["data"], form.__name__)
    assert {len(event["data"]) for event in shown if event["event"] == "batch"} > {2}


def test_the_server_sends_these(recorder: Recorder, rewrite_wire: bool) -> None:
    recorder.settings = replace(recorder.settings, version_check=0.2)
    record_a_run(recorder)
    record_ends(recorder)
    compare("events.json", Normal()(recorder.scenes), rewrite=rewrite_wire)


def events() -> list[dict[str, Any]]:
    return [event for scene in golden("events.json") for event in scene["events"]]


def test_every_form_of_every_event_is_among_them() -> None:
    assert {event["event"] for event in events()} == set(EVENTS)
    for name, field, forms in (
        ("reset", "reason", get_args(ResetReason)),
        ("timeout", "reason", get_args(TimeoutReason)),
        ("error", "code", get_args(ErrorCode)),
    ):
        shown = {event["data"][field] for event in events() if event["event"] == name}
        assert shown == set(forms), name
    assert any(event["data"]["truncated"] for event in events() if event["event"] == "log")


def test_they_are_what_the_document_says() -> None:
    for event in events():
        validate_component(event["data"], EVENTS[event["event"]].__name__)
