"""The topics of a WebSocket: what each of them tells, which is what a stream tells."""

from collections.abc import Callable

import sqlalchemy as sa

from shared.auth import issue_token
from shared.jobs import JobStatus
from shared.settings import Settings
from tests.support.batches import OWNER, make_batch
from tests.support.plain_stream import Plain
from tests.support.sse import JSON, Stream, certain
from tests.support.streams import stream_thread
from tests.support.topics import completes, known, topics, truth
from tests.support.websockets import RawSocket, Reader, close_frame
from tests.support.writer import Writer


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
        now = certain(writer.state()["batch"])
        assert [certain(reader.records[topic].batch) for topic in (batch, job)] == [now, now]
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
        while not completes(reader, logs):
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
        reader.catch_up()
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


def test_the_feed_shows_what_there_is_and_what_becomes_of_it(
    address: str, make_writer: Callable[..., Writer], writer: Writer, token: str
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
        other = make_writer()
        version = other.start(0)
        reader.until(lambda said: told_of(said) == (str(other.batch_id), version))
        reader.subscribe(f"batch:{other.batch_id}")
        reader.until(lambda said: said["topic"] != "batches")


def test_another_batch_does_not_disturb(address: str, engine: sa.Engine, writer: Writer, token: str) -> None:
    other = make_batch(engine, 1)
    with RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(f"batch:{writer.batch_id}", f"batch:{other}")
        reader.catch_up()
        reader.to_version(writer.start(0), [f"batch:{writer.batch_id}"])
        assert reader.records[f"batch:{other}"].version == 1


def test_what_is_told_is_made_once_for_all(settings: Settings, writer: Writer, token: str) -> None:
    with stream_thread(settings) as (address, app), RawSocket(address, token) as one, RawSocket(address, token) as two:
        readers = [Reader(one), Reader(two)]
        for reader in readers:
            reader.subscribe(*topics(writer))
            reader.catch_up()
        version = writer.start(0)
        for reader in readers:
            reader.to_version(version, [topics(writer)[0], topics(writer)[2]])
        topic = app.state.hub.topics.keepers[writer.batch_id].topic
        assert len(topic.viewers) == 6
        assert len(topic._deliveries) == 3


def test_it_works_by_plain_asgi_too(settings: Settings, writer: Writer, token: str) -> None:
    with stream_thread(settings, within=Plain) as (address, _), RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(*topics(writer))
        writer.start(0, 1)
        for percent in range(1, 10):
            version = writer.progress(0, percent, lines=2)
        reader.to_version(version)
        assert known(reader) == truth(writer)
        socket.send(close_frame())
        assert socket.end(answer=False) == 1000
        with RawSocket(address, issue_token(settings, OWNER, ttl=4)) as short:
            assert short.hear()["type"] == "timeout"
            assert short.end() == 4401
