"""Batches that end while somebody has subscribed to them over a WebSocket, or before."""

from shared.jobs import JobStatus
from shared.settings import Settings
from tests.support.streams import stream_thread
from tests.support.topics import completes, known, topics, truth
from tests.support.websockets import RawSocket, Reader
from tests.support.writer import Writer


def test_a_subscription_sees_a_batch_finish_and_reopen(address: str, writer: Writer, token: str) -> None:
    batch, logs, job = topics(writer)
    with RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(batch, logs, job)
        writer.start(0, 1, 2)
        for position in range(3):
            writer.finish(position, JobStatus.FAILED, lines=1)
        while not all(completes(reader, topic) for topic in topics(writer)):
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
        while any(len(completes(reader, topic)) < 2 for topic in topics(writer)):
            reader.next()


def test_a_finished_batch_is_told_at_once_and_a_reader_that_has_it_is_told_nothing(
    address: str, writer: Writer, token: str
) -> None:
    writer.start(0, 1, 2)
    for position in range(3):
        writer.finish(position, lines=1)
    with RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(*topics(writer))
        while not all(completes(reader, topic) for topic in topics(writer)):
            reader.next()
        assert known(reader) == truth(writer)
    with RawSocket(address, token) as socket:
        again = Reader(socket, reader.records)
        again.subscribe(*topics(writer))
        socket.say(type="subscribe", topic="nonsense")  # what comes after it shows that nothing came before
        assert again.next()["code"] == "invalid"


def test_a_deleted_batch_ends_its_subscriptions(settings: Settings, writer: Writer, token: str) -> None:
    batch = f"batch:{writer.batch_id}"
    with stream_thread(settings) as (address, app), RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(batch)
        reader.delta(batch)
        writer.start(0, 1, 2)
        for position in range(3):
            writer.finish(position)
        reader.complete(batch)
        writer.delete()
        app.state.hub.topics.source._due.set()  # the periodic look
        said = reader.until(lambda said: said["type"] == "error")[-1]
        assert (said["topic"], said["code"]) == (batch, "deleted")
        reader.subscribe(batch)
        assert reader.next()["code"] == "not_found"
