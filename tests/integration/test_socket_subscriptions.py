"""Subscriptions of a WebSocket: where they go on, how they end, and how many there may be."""

from collections.abc import Callable

import pytest

from services.stream import session as sessions
from shared.settings import Settings
from tests.support.batches import wait_for
from tests.support.sse import Event, Record, Stream
from tests.support.streams import SEND_BUFFER, stream_thread
from tests.support.topics import known, topics, truth
from tests.support.websockets import RawSocket, Reader
from tests.support.writer import Writer


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
        writer.start(0)
        (progress,) = reader.delta(batch)
        assert progress["type"] == "progress"
        assert len(progress["data"]["jobs"]) == 1


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


class _Anything(Record):
    """Of a topic that is left and entered again without an id: the same snapshot may come more than once."""

    def take(self, event: Event) -> None:
        assert event.name in {"log", "progress"}


def test_whoever_changes_their_mind_at_once_leaves_nothing_behind(
    settings: Settings, writer: Writer, token: str
) -> None:
    batch, logs, job = topics(writer)
    with stream_thread(settings) as (address, app), RawSocket(address, token) as socket:
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
    make_writer: Callable[..., Writer], settings: Settings, token: str
) -> None:
    topic = f"batch:{make_writer(1500).batch_id}"  # several messages
    with (
        stream_thread(settings, send_buffer=SEND_BUFFER) as (address, app),
        RawSocket(address, token, receive_buffer=4096) as socket,
    ):

        def await_stuck() -> None:
            """It has been told as much as there is room for."""
            (guest,) = list(app.state.hub._guests)
            wait_for(lambda: app.state.hub.present == 2 and not guest._outlet.takes_more, "its buffers to be full")

        for _ in range(4):
            socket.say(type="subscribe", topic=topic)
            await_stuck()
            socket.say(type="unsubscribe", topic=topic)
            socket.say(type="subscribe", topic=topic)
            for _ in range(4):
                socket.receive()
            await_stuck()
            socket.say(type="unsubscribe", topic=topic)
            wait_for(lambda: app.state.hub.present == 1, "the topic to be left")
