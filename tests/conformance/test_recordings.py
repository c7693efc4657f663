"""Streams of the real service, recorded to their end and fed to the readers of others, cut at every place there is."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event as Flag
from threading import Thread
from typing import Any, Literal

import httpx
import pytest
import sqlalchemy as sa
from msgspec import Struct
from msgspec.structs import replace

from services.api.app import create_app as create_api
from services.stream.app import create_app
from services.worker.process import WorkerProcess, quiet_dramatiq
from shared.auth import issue_token
from shared.event_ids import EventId, Filters, parse_event_id
from shared.kinds import KINDS
from shared.kinds.kind import Kind
from shared.settings import Settings
from shared.updates import Job, Log, Progress, Step, Updates
from tests.support.batches import OWNER, make_batch, wait_finished, wait_for
from tests.support.odd import ODD_NAMES, ODD_TEXTS, UNSTORABLE
from tests.support.readers import told
from tests.support.sse import Event, Stream
from tests.support.streams import stream_process, stream_thread
from tests.support.web import client, rehearsal, served, submit
from tests.support.writer import Writer

Replayed = Callable[[bytes], list[Event]]

MANY = [*ODD_TEXTS, *UNSTORABLE]
STORED = [*ODD_TEXTS, *UNSTORABLE.values()]


@dataclass
class Tape:
    """Records streams of one batch, each to its end."""

    address: str
    batch_id: object
    token: str
    pool: ThreadPoolExecutor

    def begin(self, last_id: str = "", **query: Any) -> "Future[bytes]":
        """`result()` is the whole stream, which has begun."""
        begun = Flag()
        recording = self.pool.submit(self.whole, last_id, begun, **query)
        assert begun.wait(20)
        return recording

    def whole(self, last_id: str = "", begun: Flag | None = None, **query: Any) -> bytes:
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "text/event-stream"}
        with httpx.stream(
            "GET",
            f"{self.address}/api/batches/{self.batch_id}/stream",
            headers=headers | ({"Last-Event-ID": last_id} if last_id else {}),
            params=query,
            trust_env=False,
            timeout=30,
        ) as reply:
            assert reply.status_code == 200
            if begun is not None:
                begun.set()
            return reply.read()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def recorder(settings: Settings, writer: Writer, pool: ThreadPoolExecutor) -> Callable[..., Any]:
    """For a `with`: a stream service, with these settings, of which streams of the writer's batch are recorded."""

    @contextmanager
    def recorder(**changes: Any) -> Iterator[Tape]:
        with served(create_app(replace(settings, **changes), jitter=lambda: 0)) as address:
            yield Tape(address, writer.batch_id, issue_token(settings, OWNER), pool)

    return recorder


# -- what people write ----------------------------------------------------------------------------------------------


class Nothing(Struct):
    pass


def odd(params: Nothing, job: Job) -> Updates[list[str]]:
    """Says everything that is odd, in every field there is."""
    for number, text in enumerate(MANY):
        yield Step(text)
        yield Progress(number, text)
        yield Log(text, "warn")  # which leaves at once
    return ODD_TEXTS


def large(params: Nothing, job: Job) -> Updates[str]:
    """As much as one job may say, in every field."""
    yield Step("s" * 1000)
    yield Progress(50, "é" * 1000)
    for _ in range(130):
        yield Log("日本" * 5000)
    return "r" * 262_000


@contextmanager
def working(settings: Settings, monkeypatch: pytest.MonkeyPatch, handler: Callable[..., Any]) -> Iterator[Kind]:
    """A worker for one kind more, whose summary is all results."""
    kind = Kind(name=handler.__name__, title="", params=Nothing, max_attempts=1, result=Any, summarise=list)
    monkeypatch.setitem(KINDS, kind.name, kind)
    quiet_dramatiq()
    stop = Flag()
    process = WorkerProcess(settings, "default", {kind.name: kind}, {kind.name: handler})
    thread = Thread(target=process.run, args=(stop,))
    thread.start()
    try:
        yield kind
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def test_odd_texts_come_through_whatever_cuts_them(
    settings: Settings, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, replayed: Replayed, pool: ThreadPoolExecutor
) -> None:
    token = issue_token(settings, OWNER)
    with (
        working(settings, monkeypatch, odd) as kind,
        served(create_app(replace(settings, window=0))) as address,
    ):
        metadata = {f"{number} {text}": text for number, text in enumerate(ODD_TEXTS)}
        metadata |= dict.fromkeys(ODD_TEXTS, "as a name")
        title = "".join(ODD_TEXTS)[:200]
        batch_id = make_batch(engine, 2, kind, title=title, metadata=metadata)
        tape = Tape(address, batch_id, token, pool)
        live = tape.begin()
        wait_finished(engine, batch_id)
        bodies = [live.result(30), tape.whole()]

    lived, after = map(replayed, bodies)
    for events in (lived, after):
        record = told(events)
        assert record.batch["status"] == "COMPLETED"
        assert (record.batch["title"], record.batch["metadata"]) == (title, metadata)
        assert record.batch["summary"] == [ODD_TEXTS, ODD_TEXTS]
        for job in record.jobs.values():
            lines = [line["text"] for line in record.lines.values() if line["jobId"] == job["id"]]
            assert lines == [text for text in STORED for _ in range(2)]  # a step is a line, too
            assert (job["step"], job["message"]) == (STORED[-1], STORED[-1])
    assert {event.name for event in lived} == {"log", "progress", "complete"}


def test_odd_names_of_jobs_come_through(
    settings: Settings, token: str, replayed: Replayed, pool: ThreadPoolExecutor
) -> None:
    """As a client gave them to the api: while the jobs wait, when they end, and afterwards."""
    with (
        served(create_api(settings)) as api_address,
        client(api_address, settings) as api,
        stream_thread(settings) as (address, app),
    ):
        batch = submit(api, rehearsal() | {"jobs": [{"name": name, "params": {}} for name in ODD_NAMES]})
        tape = Tape(address, batch["batchId"], token, pool)
        live = tape.begin()
        wait_for(lambda: app.state.hub.present == 1, "the recording to begin")
        assert api.post(f"/api/batches/{batch['batchId']}/cancel").status_code == 202
        bodies = [live.result(30), tape.whole()]

    lived, after = map(replayed, bodies)
    for events in (lived, after):
        record = told(events)
        assert record.batch["status"] == "CANCELLED"
        assert {job["position"]: job["name"] for job in record.jobs.values()} == dict(enumerate(ODD_NAMES))
    assert [len(event.data["jobs"]) for event in lived] == [len(ODD_NAMES)] * 2, "all again, as all have changed"


def test_the_longest_fields_come_through(
    settings: Settings, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, replayed: Replayed, pool: ThreadPoolExecutor
) -> None:
    metadata = {"long": "\u2028" * 5_000}
    with (
        working(settings, monkeypatch, large) as kind,
        served(create_app(settings)) as address,
    ):
        batch_id = make_batch(engine, 5, kind, title="t" * 200, metadata=metadata)
        wait_finished(engine, batch_id)
        body = Tape(address, batch_id, issue_token(settings, OWNER), pool).whole()

    record = told(replayed(body))
    longest = max(len(line) for line in body.split(b"\n"))
    assert longest > 1_250_000, "a summary is as long as it is, and goes out as one field"
    assert record.batch["summary"] == ["r" * 262_000] * 5
    assert record.batch["metadata"] == metadata
    assert len(record.lines) + record.left_out == 5 * 131
    assert sum(len(line["text"].encode()) for line in record.lines.values()) > 900_000
    for line in record.lines.values():
        assert len(line["text"].encode()) <= 8192
        assert line["level"] == "phase" or line["text"].endswith("(cut)")


# -- every kind of event --------------------------------------------------------------------------------------------


def test_pings_and_a_lifetime(recorder: Callable[..., Any], replayed: Replayed) -> None:
    with recorder(heartbeat=0.1, lifetime=2) as tape:
        events = replayed(tape.whole())
    assert [event.name for event in events[:3]] == ["progress", "ping", "ping"]
    assert events[-1] == Event("timeout", {"reason": "lifetime"})


def test_the_end_of_a_token(recorder: Callable[..., Any], settings: Settings, replayed: Replayed) -> None:
    with recorder() as tape:
        tape.token = issue_token(settings, OWNER, ttl=4)
        assert replayed(tape.whole())[-1] == Event("timeout", {"reason": "token_expired"})


CHANGES: list[tuple[str, Callable[[EventId], str]]] = [
    ("epoch", lambda event: str(replace(event, epoch="00000000"))),
    ("ahead", lambda event: str(replace(event, version=event.version + 1))),
    ("invalid_id", lambda _: "nonsense"),
    ("filters", lambda event: str(replace(event, filters=Filters(logs=5)))),
]


def test_every_reset(recorder: Callable[..., Any], writer: Writer, replayed: Replayed) -> None:
    for position in range(3):
        writer.start(position)
        writer.finish(position, lines=1)
    with recorder() as tape:
        known = parse_event_id(told(replayed(tape.whole())).id)
        assert known is not None
        for reason, change in CHANGES:
            events = replayed(tape.whole(change(known)))
            assert [event.name for event in events] == ["reset", "log", "progress", "complete"]
            assert events[0].data == {"reason": reason}
            assert told(events).jobs == writer.state()["jobs"]


def assert_ends_in(events: list[Event], code: str, *, retryable: bool) -> None:
    last = events[-1]
    assert (last.name, last.data["code"], last.data["retryable"]) == ("error", code, retryable)
    assert last.data["message"]
    assert [event.name for event in events[:-1]] in ([], ["progress"])


def test_a_deleted_batch(recorder: Callable[..., Any], writer: Writer, replayed: Replayed) -> None:
    with recorder(version_check=0.1) as tape, Stream(tape.address, writer.batch_id, tape.token) as other:
        live = tape.begin()
        other.delta()
        writer.delete()
        assert_ends_in(replayed(live.result(20)), "deleted", retryable=False)


def test_too_many_connections(recorder: Callable[..., Any], writer: Writer, replayed: Replayed) -> None:
    with recorder(owner_viewers=1) as tape, Stream(tape.address, writer.batch_id, tape.token) as other:
        other.delta()
        assert_ends_in(replayed(tape.whole()), "too_many_connections", retryable=True)


def test_a_database_that_is_away(recorder: Callable[..., Any], replayed: Replayed) -> None:
    with recorder(database_url="postgresql://nobody@127.0.0.1:1/nothing") as tape:
        assert_ends_in(replayed(tape.whole()), "overloaded", retryable=True)


def test_a_mistake_of_ours(recorder: Callable[..., Any], engine: sa.Engine, replayed: Replayed) -> None:
    with engine.begin() as connection:  # what nobody has foreseen
        connection.execute(sa.text("ALTER TABLE batches DROP CONSTRAINT ck_batches_status"))
        connection.execute(sa.text("UPDATE batches SET status = 'SOMETHING_ELSE'"))
    with recorder() as tape:
        assert_ends_in(replayed(tape.whole()), "internal", retryable=True)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_server_that_leaves(
    settings: Settings, writer: Writer, replayed: Replayed, pool: ThreadPoolExecutor, when: Literal["before", "after"]
) -> None:
    """To those who came before it was told to leave, and to those who come after."""
    with stream_process(replace(settings, drain_grace=10)) as (address, process):
        tape = Tape(address, writer.batch_id, issue_token(settings, OWNER), pool)
        with Stream(address, writer.batch_id, tape.token) as other:
            other.delta()
            early = tape.begin() if when == "before" else None
            if early is not None:
                with Stream(address, writer.batch_id, tape.token) as later:
                    later.delta()
            process.send_signal(signal.SIGTERM)
            other.rest()
        body = early.result(20) if early is not None else tape.whole()
        assert_ends_in(replayed(body), "draining", retryable=True)
