"""`GET /api/ws`: the same topics in another envelope, and what a connection may and may not do."""

import asyncio
import gc
import json
import socket as socket_module
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from litestar import Litestar
from msgspec.structs import replace
from websockets.sync.client import connect

from services.api.app import create_app as create_api
from services.stream import session as sessions
from services.stream.app import create_app
from shared.auth import Claims, issue_ticket, issue_token
from shared.jobs import JobStatus
from shared.settings import Settings
from shared.web.sockets import Socket
from tests.support.batches import OWNER, make_batch, wait_for
from tests.support.plain_stream import Plain
from tests.support.sse import JSON, Event, Record, Stream
from tests.support.web import served, served_by
from tests.support.websockets import PING, PONG, RawSocket, Reader, close_frame, frame
from tests.support.writer import Writer

_LONG_AGO = 1_000_000_000


@pytest.fixture
def token(settings: Settings) -> str:
    return issue_token(settings, OWNER)


@pytest.fixture
def writer(engine: sa.Engine, settings: Settings) -> Iterator[Writer]:
    writer = Writer(engine, settings, 3)
    yield writer
    writer.close()


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with watching(settings) as (address, _):
        yield address


@contextmanager
def watching(settings: Settings) -> Iterator[tuple[str, Litestar]]:
    """A stream service that hears of changes."""
    app = create_app(settings)
    with served(app) as address:
        wait_for(lambda: app.state.hub.source.connected, "the stream service to find Redis")
        yield address, app


@contextmanager
def small_buffers(settings: Settings) -> Iterator[tuple[str, Litestar]]:
    """One whose kernel keeps little, as it does in production until a connection has shown what it can take."""
    app = create_app(settings)
    with served_by(app) as (address, server):
        server.servers[0].sockets[0].setsockopt(socket_module.SOL_SOCKET, socket_module.SO_SNDBUF, 16 * 1024)
        wait_for(lambda: app.state.hub.source.connected, "the stream service to find Redis")
        yield address, app


def topics(writer: Writer) -> list[str]:
    return [f"batch:{writer.batch_id}", f"logs:{writer.batch_id}", f"job:{writer.jobs[0]}"]


def truth(writer: Writer) -> dict[str, tuple[JSON, JSON]]:
    """The jobs and lines that somebody has who has heard all of a topic."""
    state = writer.state()
    batch, logs, job = topics(writer)
    mine = str(writer.jobs[0])
    return {
        batch: (state["jobs"], {}),
        logs: ({}, state["lines"]),
        job: ({mine: state["jobs"][mine]}, {key: line for key, line in state["lines"].items() if key[0] == mine}),
    }


def known(reader: Reader) -> dict[str, tuple[JSON, Any]]:
    return {topic: (record.jobs, record.lines) for topic, record in reader.records.items()}


def ticket_for(settings: Settings, writer: Writer, owner: str = OWNER) -> str:
    return issue_ticket(settings, Claims(owner, None, time.time() + 60), writer.batch_id)[0]


# -- topics -------------------------------------------------------------------------------------------------------


def test_every_topic_tells_what_is_so_and_what_changes(address: str, writer: Writer, token: str) -> None:
    writer.start(0, 1)
    writer.progress(0, 5, lines=3)
    writer.progress(1, 7, lines=2)
    with RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(*topics(writer))
        for topic in topics(writer):
            if not reader.records[topic].id:
                reader.delta(topic)
        assert known(reader) == truth(writer)

        writer.start(2)
        writer.progress(1, 20, lines=4)
        writer.progress(2, 30)
        version = writer.progress(0, 40, lines=1)
        reader.to_version(version)

        assert known(reader) == truth(writer)
        batch, _, job = topics(writer)
        assert reader.records[batch].batch == reader.records[job].batch == writer.state()["batch"]
        said = [(one["topic"], one["type"]) for one in reader.heard]
        assert {kind for topic, kind in said if topic == batch} == {"progress"}
        assert not reader.errors


def test_a_topic_tells_the_same_as_a_stream(address: str, writer: Writer, token: str) -> None:
    """Event by event: the same data in the same order, with the same ids."""
    batch, logs, _ = topics(writer)
    with RawSocket(address, token) as socket, Stream(address, writer.batch_id, token, logs=0) as stream:
        reader = Reader(socket)
        reader.subscribe(batch, logs)
        steps: list[Callable[[], int]] = [
            lambda: 1,
            lambda: writer.start(0, 1, 2),
            lambda: writer.progress(0, 50, lines=2),
            lambda: writer.finish(0),
            lambda: writer.finish(1, JobStatus.FAILED),
            lambda: writer.finish(2),
        ]
        for step in steps:
            version = step()
            stream.to_version(version)
            reader.to_version(version, [batch])
        assert [(event.name, event.data, event.id) for event in stream.record.events] == [
            (event.name, event.data, event.id) for event in reader.records[batch].events
        ]
        while not _completes(reader, logs):
            reader.next()
    with Stream(address, writer.batch_id, token, jobs="none") as stream:
        lines = [event for event in stream.rest() if event.name == "log"]
    assert stream.record.lines == reader.records[logs].lines
    assert lines


def test_a_job_tells_only_of_itself(address: str, writer: Writer, token: str) -> None:
    first, second = (f"job:{job}" for job in writer.jobs[:2])
    with RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(first, second)
        while not all(record.id for record in reader.records.values()):
            reader.next()
        writer.start(0, 1)
        reader.to_version(writer.progress(0, 10, lines=1), [first])
        reader.to_version(writer.progress(1, 20, lines=1), [second])
        reader.to_version(writer.progress(0, 30), [first])

    heard = [said for said in reader.heard if said["topic"] == second]
    assert {job["id"] for said in heard for job in said["data"].get("jobs", [])} == {str(writer.jobs[1])}
    assert {line["jobId"] for said in heard for line in said["data"].get("lines", [])} == {str(writer.jobs[1])}


def test_a_job_says_how_many_of_its_lines_were_left_out_and_where_they_are(
    address: str, writer: Writer, token: str
) -> None:
    writer.start(0)
    for _ in range(3):
        writer.progress(0, 1, lines=400)
    topic = f"job:{writer.jobs[0]}"
    with RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(topic)
        said = reader.delta(topic)[0]["data"]

    assert said["truncated"] == {"count": 200, "logsUrl": f"/api/batches/{writer.batch_id}/logs?job={writer.jobs[0]}"}
    assert said["lines"][0]["n"] == 201


def test_a_log_without_lines_says_that_it_is_open(address: str, writer: Writer, token: str) -> None:
    logs = f"logs:{writer.batch_id}"
    with RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(logs)
        (said,) = reader.delta(logs)
        assert said["data"] == {"batchId": str(writer.batch_id), "lines": [], "truncated": None}
        writer.start(0)
        reader.to_version(writer.progress(0, 1, lines=1))
        assert [one["type"] for one in reader.heard] == ["log", "log"], "no lines, no message"


def test_a_subscription_sees_a_batch_finish_and_reopen(address: str, writer: Writer, token: str) -> None:
    batch, logs, job = topics(writer)
    with RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(batch, logs, job)
        writer.start(0, 1, 2)
        for position in range(3):
            writer.finish(position, JobStatus.FAILED, lines=1)
        while not all(_completes(reader, topic) for topic in topics(writer)):
            reader.next()
        assert [reader.records[topic].batch["status"] for topic in (batch, logs, job)] == ["FAILED"] * 3
        assert reader.records[logs].events[-1].data["jobs"] == []

        version = writer.retry_failed()
        reader.to_version(version, [batch, job])
        assert reader.records[batch].batch["status"] == "PROCESSING"
        writer.start(0)
        reader.to_version(writer.progress(0, 10, lines=1))
        assert known(reader) == truth(writer)
        writer.cancel()
        writer.finish(0, JobStatus.CANCELLED)
        while any(len(_completes(reader, topic)) < 2 for topic in topics(writer)):
            reader.next()


def _completes(reader: Reader, topic: str) -> list[JSON]:
    return [said for said in reader.heard if said["topic"] == topic and said["type"] == "complete"]


def test_a_finished_batch_is_told_at_once_and_a_reader_that_has_it_is_told_nothing(
    address: str, writer: Writer, token: str
) -> None:
    writer.start(0, 1, 2)
    for position in range(3):
        writer.finish(position, lines=1)
    with RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(*topics(writer))
        while not all(_completes(reader, topic) for topic in topics(writer)):
            reader.next()
        assert known(reader) == truth(writer)
    with RawSocket(address, token) as socket:
        again = Reader(socket, reader.records)
        again.subscribe(*topics(writer))
        socket.say(type="subscribe", topic="nonsense")  # what comes after it shows that nothing came before
        assert again.next()["code"] == "invalid"


def test_a_deleted_batch_ends_its_subscriptions(settings: Settings, writer: Writer, token: str) -> None:
    batch = f"batch:{writer.batch_id}"
    with watching(settings) as (address, app), RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(batch)
        reader.delta(batch)
        writer.start(0, 1, 2)
        for position in range(3):
            writer.finish(position)
        reader.complete(batch)
        writer.delete()
        app.state.hub.source._due.set()  # the periodic look
        said = reader.until(lambda said: said["type"] == "error")[-1]
        assert (said["topic"], said["code"]) == (batch, "deleted")
        reader.subscribe(batch)
        assert reader.next()["code"] == "not_found"


# -- going on -----------------------------------------------------------------------------------------------------


def test_a_reader_goes_on_where_it_was(address: str, writer: Writer, token: str) -> None:
    with RawSocket(address, token) as socket:
        before = Reader(socket)
        before.subscribe(*topics(writer))
        writer.start(0, 1)
        before.to_version(writer.progress(0, 10, lines=2))
    writer.progress(0, 20, lines=2)
    version = writer.progress(1, 20, lines=2)
    writer.progress(0, 30, lines=1)
    with RawSocket(address, token) as socket:
        after = Reader(socket, before.records)
        after.subscribe(*topics(writer))
        after.to_version(version)
        assert known(after) == truth(writer)
    assert [said for said in after.heard if said["type"] == "reset"] == []
    jobs = [job["id"] for said in after.heard if said["topic"] == topics(writer)[0] for job in said["data"]["jobs"]]
    assert sorted(jobs) == sorted(map(str, writer.jobs[:2])), "what did not change is not told again"


@pytest.mark.parametrize("kind", ["batch", "logs", "job"])
def test_an_id_that_is_not_of_the_topic_is_answered_by_a_reset(
    address: str, writer: Writer, token: str, kind: str
) -> None:
    topic = {name.partition(":")[0]: name for name in topics(writer)}[kind]
    with RawSocket(address, token) as socket:
        ids = Reader(socket)
        ids.subscribe(*topics(writer), f"job:{writer.jobs[1]}")
        while not all(record.id for record in ids.records.values()):
            ids.next()
    with Stream(address, writer.batch_id, token, jobs="changed") as stream:
        stream.delta()
    foreign = [record.id for name, record in ids.records.items() if name != topic]
    for since in ["nonsense", stream.record.id, *foreign]:
        with RawSocket(address, token) as socket:
            reader = Reader(socket)
            reader.records[topic] = type(ids.records[topic])(since)
            reader.subscribe(topic)
            said = reader.next()
            assert said["type"] == "reset", since
            assert said["data"]["reason"] in {"invalid_id", "filters"}
            reader.delta(topic)
            assert known(reader)[topic] == truth(writer)[topic]


def test_an_id_of_a_stream_with_the_same_filters_is_good(address: str, writer: Writer, token: str) -> None:
    with Stream(address, writer.batch_id, token, logs=0) as stream:
        stream.delta()
    batch = f"batch:{writer.batch_id}"
    with RawSocket(address, token) as socket:
        reader = Reader(socket, {batch: stream.record})
        reader.subscribe(batch)
        reader.to_version(writer.start(0))
        assert [said["type"] for said in reader.heard] == ["progress"]
        assert len(reader.heard[0]["data"]["jobs"]) == 1


def test_the_feed_shows_what_there_is_and_what_becomes_of_it(
    address: str, settings: Settings, engine: sa.Engine, writer: Writer, token: str
) -> None:
    def told_of(said: JSON) -> tuple[str, int]:
        return said["data"].get("batchId", ""), said["data"].get("version", 0)

    with RawSocket(address, token) as socket:
        reader = Reader(socket)
        socket.say(type="subscribe", topic="batches")
        first = reader.next()
        assert (first["type"], first["topic"], first["id"]) == ("batches", "batches", None)
        assert [one["batchId"] for one in first["data"]["items"]] == [str(writer.batch_id)]
        version = writer.start(0)
        said = reader.until(lambda said: told_of(said) == (str(writer.batch_id), version))
        assert {(one["type"], one["topic"], one["id"]) for one in said} == {("batch", "batches", None)}
        assert "jobs" not in said[-1]["data"]
        other = Writer(engine, settings, 1)
        version = other.start(0)
        reader.until(lambda said: told_of(said) == (str(other.batch_id), version))
        reader.subscribe(f"batch:{other.batch_id}")
        reader.until(lambda said: said["topic"] != "batches")
        other.close()


def test_what_was_unsubscribed_from_is_not_told_any_more(address: str, writer: Writer, token: str) -> None:
    batch, logs, job = topics(writer)
    with RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(batch, logs, job)
        writer.start(0)
        reader.to_version(writer.progress(0, 1, lines=1))
        socket.say(type="unsubscribe", topic=logs)
        socket.say(type="unsubscribe", topic=logs)  # twice is no mistake
        socket.say(type="subscribe", topic="nonsense")
        reader.until(lambda said: said["type"] == "error")
        reader.heard.clear()
        reader.to_version(writer.progress(0, 2, lines=1), [batch, job])
        reader.to_version(writer.progress(0, 3, lines=1), [batch, job])
        assert {said["topic"] for said in reader.heard} == {batch, job}
        reader.subscribe(logs)
        reader.to_version(writer.progress(0, 4, lines=1))
        assert known(reader) == truth(writer)


# -- who may ------------------------------------------------------------------------------------------------------


def test_a_token_comes_in_the_first_message(address: str, writer: Writer, token: str) -> None:
    """By the library that others use."""
    with connect(address.replace("http", "ws", 1) + "/api/ws", proxy=None) as socket:
        socket.send(json.dumps({"type": "auth", "token": token}))
        socket.send(json.dumps({"type": "subscribe", "topic": f"batch:{writer.batch_id}"}))
        said = json.loads(socket.recv(10))
    assert said["type"] == "progress"
    assert said["id"]


def test_a_token_without_the_scope_is_refused(address: str, settings: Settings) -> None:
    with RawSocket(address) as socket:
        socket.say(type="auth", token=issue_token(settings, OWNER, scope="write report"))
        assert socket.hear()["code"] == "forbidden"
        assert socket.end() == 4403
    with RawSocket(address, issue_token(settings, OWNER, scope="write")) as socket:
        assert socket.status == 403


def test_whoever_says_it_in_the_handshake_is_answered_there(address: str, settings: Settings, writer: Writer) -> None:
    expired = issue_ticket(settings, Claims(OWNER, None, _LONG_AGO), writer.batch_id)[0]
    cases: list[tuple[str | None, dict[str, str], int]] = [
        ("wrong", {}, 401),
        (None, {"ticket": "wrong"}, 401),
        (None, {"ticket": expired}, 401),
        (None, {"token": "wrong"}, 422),
        (None, {"ticket": ticket_for(settings, writer), "surprise": "b"}, 422),
    ]
    for token, query, status in cases:
        with RawSocket(address, token, query=query) as socket:
            assert socket.status == status
            assert socket.body()["status"] == status
            assert ("www-authenticate" in socket.headers) == (status == 401)


def test_a_ticket_opens_the_topics_of_its_batch(
    address: str, settings: Settings, engine: sa.Engine, writer: Writer
) -> None:
    other = Writer(engine, settings, 1)
    with RawSocket(address, query={"ticket": ticket_for(settings, writer)}) as socket:
        reader = Reader(socket)
        reader.subscribe(*topics(writer))
        while not all(record.id for record in reader.records.values()):
            reader.next()
        refused = {}
        for topic in (f"batch:{other.batch_id}", f"logs:{other.batch_id}", f"job:{other.jobs[0]}", "batches"):
            socket.say(type="subscribe", topic=topic)
            said = reader.until(lambda said: said["type"] == "error")[-1]
            refused[said["topic"].partition(":")[0]] = said["code"]
        assert refused == {"batch": "not_found", "logs": "not_found", "job": "not_found", "batches": "forbidden"}
        reader.to_version(writer.start(0), [topics(writer)[0]])
    other.close()


def test_what_is_not_there_or_somebody_elses_cannot_be_told_apart_and_the_connection_stays(
    address: str, settings: Settings, engine: sa.Engine, writer: Writer, token: str
) -> None:
    theirs = Writer(engine, settings, 1, owner="bert")
    nobodys = "01890a5d-ac96-774b-bcce-b302099a8057"
    with RawSocket(address, token) as socket:
        reader = Reader(socket)
        for kind in ("batch", "logs", "job"):
            for subject in (theirs.batch_id if kind != "job" else theirs.jobs[0], nobodys):
                socket.say(type="subscribe", topic=f"{kind}:{subject}")
                said = reader.next()
                assert said["topic"] == f"{kind}:{subject}"
                assert (said["code"], said["message"]) == ("not_found", "There is no such thing, or it is not yours")
        reader.subscribe(f"batch:{writer.batch_id}")
        reader.delta(f"batch:{writer.batch_id}")
    theirs.close()


def test_pages_of_other_sites_are_not_let_in(settings: Settings) -> None:
    settings = replace(settings, origins="https://app.example.org", public_url="https://headway.example.org")
    with served(create_app(settings)) as address:
        answers: dict[str | None, int] = {
            "https://evil.example.org": 403,
            "null": 403,
            "": 403,
            "https://app.example.org.evil.example.org": 403,
            "http://app.example.org": 403,
            "https://app.example.org": 101,
            "https://headway.example.org": 101,
            address: 101,
            None: 101,
        }
        for origin, status in answers.items():
            with RawSocket(address, issue_token(settings, OWNER), headers={"Origin": origin}) as socket:
                assert socket.status == status, origin
                if status == 403:
                    assert socket.body()["type"] == "/problems/forbidden"


def test_the_api_service_has_no_websockets(settings: Settings, token: str) -> None:
    with served(create_api(settings)) as address, RawSocket(address, token) as socket:
        assert socket.status == 404
        assert socket.body()["type"] == "/problems/not_found"


# -- what a client may send ---------------------------------------------------------------------------------------


def test_what_is_subscribed_to_is_not_subscribed_to_again(address: str, writer: Writer, token: str) -> None:
    batch = f"batch:{writer.batch_id}"
    with RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(batch)
        reader.delta(batch)
        socket.say(type="subscribe", topic=batch)
        said = reader.next()
        assert (said["topic"], said["code"]) == (batch, "conflict")
        reader.to_version(writer.start(0))


def test_topics_of_one_connection_are_bounded(
    address: str, writer: Writer, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SUBSCRIPTIONS_MAX", 2)
    with RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(*topics(writer)[:2])
        socket.say(type="subscribe", topic=topics(writer)[2])
        said = reader.until(lambda said: said["type"] == "error")[-1]
        assert (said["topic"], said["code"]) == (topics(writer)[2], "too_many_subscriptions")
        socket.say(type="unsubscribe", topic=topics(writer)[0])
        reader.subscribe(topics(writer)[2])
        reader.delta(topics(writer)[2])


# -- how long -----------------------------------------------------------------------------------------------------


def test_silence_is_broken_by_pings_of_both_kinds(settings: Settings, token: str) -> None:
    app = create_app(replace(settings, heartbeat=0.4))
    with served_by(app, ws_ping_interval=0.4, ws_ping_timeout=5) as (address, _), RawSocket(address, token) as socket:
        kinds = set()
        while len(kinds) < 2:
            received = socket.receive()
            if received.opcode == PING:
                socket.send(frame(PONG, received.payload))
                kinds.add("protocol")
            else:
                said = json.loads(received.payload)
                assert (said["type"], said["topic"], said["id"]) == ("ping", None, None)
                assert abs(said["data"]["timestamp"] / 1000 - time.time()) < 60
                kinds.add("message")


def test_who_does_not_answer_a_ping_is_gone(settings: Settings, token: str) -> None:
    app = create_app(settings)
    with served_by(app, ws_ping_interval=0.2, ws_ping_timeout=0.3) as (address, _), RawSocket(address, token) as socket:
        assert socket.receive().opcode == PING
        assert socket.end() == 1011
        wait_for(lambda: not app.state.hub.present, "the hub to see it")


def test_a_token_that_expires_ends_the_connection(address: str, settings: Settings, writer: Writer) -> None:
    batch = f"batch:{writer.batch_id}"
    with RawSocket(address, issue_token(settings, OWNER, ttl=2)) as socket:
        reader = Reader(socket)
        reader.subscribe(batch)
        said = reader.until(lambda said: said["type"] == "timeout")[-1]
        assert said == {"type": "timeout", "topic": None, "id": None, "data": {"reason": "token_expired"}}
        assert socket.end() == 4401


def test_a_connection_lives_only_so_long_also_by_ticket(settings: Settings, writer: Writer) -> None:
    settings = replace(settings, lifetime=1.0)
    ticket = {"ticket": ticket_for(settings, writer)}
    with served(create_app(settings)) as address, RawSocket(address, query=ticket) as socket:
        assert socket.hear()["data"] == {"reason": "lifetime"}
        assert socket.end() == 1001


def test_a_server_that_leaves_says_so_and_lets_nobody_in(settings: Settings, writer: Writer, token: str) -> None:
    app = create_app(settings)
    loops: list[asyncio.AbstractEventLoop] = []

    class Noting:
        """The application, whose loop we want."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            loops.append(asyncio.get_running_loop())
            await app(scope, receive, send)

    batch = f"batch:{writer.batch_id}"
    with served(Noting()) as address, RawSocket(address, token) as idle, RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(batch)
        reader.delta(batch)
        asyncio.run_coroutine_threadsafe(app.state.hub.drain(1), loops[0])
        for one in (idle, socket):
            said = one.hear()
            assert (said["type"], said["topic"], said["code"]) == ("error", None, "draining")
            assert one.end() == 1012
        with RawSocket(address, token) as late:
            assert late.status == 503
            assert late.headers["retry-after"]
        with RawSocket(address) as late:
            assert late.status == 503


# -- how many -----------------------------------------------------------------------------------------------------


def test_a_connection_is_one_viewer_of_its_owner(settings: Settings, writer: Writer, token: str) -> None:
    with watching(replace(settings, owner_viewers=1)) as (address, app):
        with RawSocket(address, token) as socket:
            reader = Reader(socket)
            reader.subscribe(*topics(writer))
            while not all(record.id for record in reader.records.values()):
                reader.next()
            assert app.state.hub.present == 4, "to the process each topic counts as well"
            with RawSocket(address, token) as second:
                assert second.status == 429
            with RawSocket(address) as second:
                second.say(type="auth", token=token)
                assert second.hear()["code"] == "too_many_connections"
                assert second.end() == 1013
            with RawSocket(address, issue_token(settings, "bert")) as other:
                assert other.status == 101
        wait_for(lambda: not app.state.hub.present, "the hub to see the end of the connection")

        def let_in() -> bool:
            with RawSocket(address, token) as again:
                return again.status == 101

        wait_for(let_in, "its place to be free")


def test_what_is_told_is_made_once_for_all(settings: Settings, writer: Writer, token: str) -> None:
    with watching(settings) as (address, app), RawSocket(address, token) as one, RawSocket(address, token) as two:
        readers = [Reader(one), Reader(two)]
        for reader in readers:
            reader.subscribe(*topics(writer))
            while not all(record.id for record in reader.records.values()):
                reader.next()
        version = writer.start(0)
        for reader in readers:
            reader.to_version(version, [topics(writer)[0], topics(writer)[2]])
        topic = app.state.hub._keepers[writer.batch_id].topic
        assert len(topic.viewers) == 6
        assert len(topic._deliveries) == 3


def test_nothing_is_left_of_connections_that_have_ended(settings: Settings, writer: Writer, token: str) -> None:
    settings = replace(settings, heartbeat=0.2)
    with watching(settings) as (address, app):
        hub = app.state.hub
        for number in range(12):
            with RawSocket(address, token if number % 2 else None) as socket:
                if not number % 2:
                    socket.say(type="auth", token=token)
                reader = Reader(socket)
                reader.subscribe(*topics(writer), f"batch:{writer.jobs[0]}")
                if number % 3:
                    reader.delta(topics(writer)[number % 3])
        wait_for(lambda: not hub.present, "the hub to see the end of the connections")
        assert not hub._keepers[writer.batch_id].topic.viewers

        def left() -> list[Any]:
            gc.collect()
            return [one for one in gc.get_objects() if isinstance(one, sessions.Session | Socket)]

        wait_for(lambda: not left(), "the connections to be forgotten")


class _Anything(Record):
    """Of a topic that is left and entered again without an id: the same snapshot may come more than once."""

    def take(self, event: Event) -> None:
        assert event.name in {"log", "progress"}


def test_whoever_changes_their_mind_at_once_leaves_nothing_behind(
    settings: Settings, writer: Writer, token: str
) -> None:
    batch, logs, job = topics(writer)
    with watching(settings) as (address, app), RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.records |= {topic: _Anything() for topic in (logs, job)}
        for topic in (logs, job):
            for _ in range(6):
                socket.say(type="subscribe", topic=topic)
                socket.say(type="unsubscribe", topic=topic)
        reader.subscribe(batch)
        reader.delta(batch)
        wait_for(lambda: app.state.hub.present == 2, "the others to have left")
        reader.to_version(writer.start(0), [batch])
        assert not reader.errors


def test_a_topic_that_is_left_in_the_middle_and_taken_up_again_is_one_topic(
    engine: sa.Engine, settings: Settings, token: str
) -> None:
    writer = Writer(engine, settings, jobs=1500)  # several messages
    topic = f"batch:{writer.batch_id}"
    with (
        small_buffers(settings) as (address, app),
        RawSocket(address, token, receive_buffer=4096) as socket,
    ):
        for _ in range(4):
            socket.say(type="subscribe", topic=topic)
            # it is told, as far as there is room, before it is left
            wait_for(lambda: app.state.hub.present == 2, "the subscription")
            time.sleep(0.1)
            socket.say(type="unsubscribe", topic=topic)
            socket.say(type="subscribe", topic=topic)
            time.sleep(0.1)
            for _ in range(4):
                socket.receive()
            time.sleep(0.1)
            socket.say(type="unsubscribe", topic=topic)
            wait_for(lambda: app.state.hub.present == 1, "the topic to be left")
    writer.close()


# -- slow clients -------------------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_gets_one_merged_delta(settings: Settings, writer: Writer, token: str) -> None:
    writer.start(0, 1)
    with (
        small_buffers(replace(settings, window=0)) as (address, app),
        RawSocket(address, token, receive_buffer=4096) as slow,
        RawSocket(address, token) as quick,
    ):
        readers = [Reader(slow), Reader(quick)]
        for reader in readers:
            reader.subscribe(*topics(writer))
            while not all(record.id for record in reader.records.values()):
                reader.next()
        for percent in range(1, 90):
            writer.progress(0, percent, lines=8, text="x" * 1000)
            version = writer.progress(1, percent)
        readers[1].to_version(version, topics(writer)[:1])
        guests = list(app.state.hub._guests)
        kept = [one._outlet.transport.get_write_buffer_size() for one in guests]  # type: ignore[union-attr]
        assert max(kept) < 80 * 1024, "one message is kept, and no more"
        readers[0].to_version(version, topics(writer)[:1])
        for reader in readers:
            reader.to_version(version - 1)
            assert known(reader) == truth(writer)
        heard = [said for said in readers[0].heard if said["topic"] == topics(writer)[0] and said["id"]]
        assert len(heard) < 90, "what was not read was merged"


def test_pings_of_a_client_that_does_not_read_are_not_kept(settings: Settings, writer: Writer, token: str) -> None:
    writer.start(0)
    writer.progress(0, 1, lines=300, text="x" * 4000)
    with small_buffers(settings) as (address, app), RawSocket(address, token, receive_buffer=4096) as socket:
        socket.say(type="subscribe", topic=f"logs:{writer.batch_id}")

        def outlet() -> Any:
            (guest,) = list(app.state.hub._guests)
            return guest._outlet

        wait_for(lambda: not outlet().takes_more, "the client's buffers to be full")
        held = outlet().transport.get_write_buffer_size()
        for number in range(200):
            socket.send(frame(PING, b"%d" % number))
        wait_for(lambda: outlet()._pong, "the pings to come")
        assert outlet().transport.get_write_buffer_size() == held
        pongs = []
        while b"199" not in pongs:
            received = socket.receive()
            if received.opcode == PONG:
                pongs.append(received.payload)
        assert len(pongs) < 200


def test_a_client_that_does_not_even_read_the_end_is_cut_off(settings: Settings, writer: Writer) -> None:
    writer.start(0)
    writer.progress(0, 1, lines=500, text="x" * 4000)
    settings = replace(settings, heartbeat=0.2)
    short = issue_token(settings, OWNER, ttl=1.5)
    with small_buffers(settings) as (address, app), RawSocket(address, short, receive_buffer=4096) as socket:
        socket.say(type="subscribe", topic=f"logs:{writer.batch_id}")
        wait_for(lambda: app.state.hub.present == 2, "the subscription")
        wait_for(lambda: not app.state.hub.present, "the connection to be given up")


# -- other servers ------------------------------------------------------------------------------------------------


def test_it_works_by_plain_asgi_too(settings: Settings, writer: Writer, token: str) -> None:
    app = create_app(settings)
    with served(Plain(app)) as address, RawSocket(address, token) as socket:
        wait_for(lambda: app.state.hub.source.connected, "the stream service to find Redis")
        reader = Reader(socket)
        reader.subscribe(*topics(writer))
        writer.start(0, 1)
        for percent in range(1, 10):
            version = writer.progress(0, percent, lines=2)
        reader.to_version(version)
        assert known(reader) == truth(writer)
        socket.send(close_frame())
        assert socket.end(answer=False) == 1000
    short = issue_token(settings, OWNER, ttl=1.2)
    with served(Plain(create_app(settings))) as address, RawSocket(address, short) as socket:
        assert socket.hear()["type"] == "timeout"
        assert socket.end() == 4401


def test_another_batch_does_not_disturb(address: str, engine: sa.Engine, writer: Writer, token: str) -> None:
    other = make_batch(engine, 1)
    with RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(f"batch:{writer.batch_id}", f"batch:{other}")
        while not all(record.id for record in reader.records.values()):
            reader.next()
        reader.to_version(writer.start(0), [f"batch:{writer.batch_id}"])
        assert reader.records[f"batch:{other}"].version == 1
