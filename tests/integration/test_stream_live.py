"""Many changes, slow readers, and servers that come and go: viewers miss nothing and notice nothing."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
import sqlalchemy as sa
from litestar import Litestar
from msgspec.structs import replace

from infra.embedded.valkey import Valkey
from services.stream.frames import CHUNK
from services.stream.hub import Hub
from shared.channels import batch_channel
from shared.settings import Settings
from tests.support.batches import wait_for
from tests.support.outages import no_database
from tests.support.sse import Record, Stream
from tests.support.streams import health, stream_process, stream_thread
from tests.support.writer import Writer


@contextmanager
def watching(settings: Settings, writer: Writer, token: str, **query: Any) -> Iterator[tuple[str, Litestar, Stream]]:
    """A stream service, and a viewer that has its snapshot."""
    with stream_thread(settings) as (address, app), Stream(address, writer.batch_id, token, **query) as stream:
        stream.delta()
        yield address, app, stream


# -- sharing ------------------------------------------------------------------------------------------------------


def test_viewers_of_a_batch_share_a_topic_and_a_subscription(
    settings: Settings, make_writer: Callable[..., Writer], token: str
) -> None:
    writer = make_writer(2, of=settings)
    channel = batch_channel(settings.namespace, writer.batch_id)
    with (
        watching(settings, writer, token) as (address, app, one),
        Stream(address, writer.batch_id, token, jobs="none") as other,
        redis.Redis.from_url(settings.redis_url) as client,
    ):
        other.delta()
        subscribed = client.pubsub_numsub(channel)
        version = writer.start(0)
        one.to_version(version)
        other.to_version(version)
        topics = app.state.hub.topics.keepers

        assert [count for _, count in subscribed] == [1]
        assert len(topics) == 1
        assert len(topics[writer.batch_id].topic.viewers) == 2


def test_a_topic_outlives_its_last_viewer_for_a_while(
    settings: Settings, make_writer: Callable[..., Writer], token: str
) -> None:
    writer = make_writer(2, of=settings)
    channel = batch_channel(settings.namespace, writer.batch_id)
    with (
        redis.Redis.from_url(settings.redis_url) as client,
        watching(settings, writer, token) as (address, app, stream),
    ):
        hub: Hub = app.state.hub
        stream.close()
        wait_for(lambda: not hub.present, "the hub to see the end of the connection")
        assert writer.batch_id in hub.topics.keepers
        hub.topics.linger = 0.3
        with Stream(address, writer.batch_id, token) as last:
            last.delta()
        wait_for(lambda: writer.batch_id not in hub.topics.keepers, "the topic to be closed")
        wait_for(lambda: client.pubsub_numsub(channel)[0][1] == 0, "the subscription to end")


# -- pace ---------------------------------------------------------------------------------------------------------


def test_changes_close_together_leave_together(
    settings: Settings, make_writer: Callable[..., Writer], token: str
) -> None:
    writer = make_writer(2, of=settings)
    with watching(replace(settings, window=4), writer, token) as (_, _, stream):
        started = time.monotonic()
        writer.start(0)
        stream.delta()
        first = time.monotonic() - started
        for percent in range(1, 8):
            version = writer.progress(0, percent, lines=1)
        log, progress = stream.delta()

    assert first < 4, "the first change after a quiet moment goes out at once"
    assert progress.data["version"] == version
    assert len(log.data["lines"]) == 7


def test_the_end_of_a_batch_does_not_wait(settings: Settings, make_writer: Callable[..., Writer], token: str) -> None:
    writer = make_writer()
    with watching(replace(settings, window=60), writer, token) as (_, _, stream):
        writer.start(0)
        stream.delta()
        writer.progress(0, 50)
        writer.finish(0)
        assert [event.name for event in stream.rest()] == ["complete"]


def test_a_viewer_that_does_not_read_gets_one_merged_delta(
    settings: Settings, make_writer: Callable[..., Writer], token: str
) -> None:
    writer = make_writer(2, of=settings)
    writer.start(0, 1)
    with (
        stream_process(replace(settings, window=0)) as (address, _),
        Stream(address, writer.batch_id, token, receive_buffer=4096) as slow,
        Stream(address, writer.batch_id, token) as quick,
    ):
        slow.delta()
        quick.delta()
        for percent in range(1, 90):
            writer.progress(0, percent, lines=8, text="x" * 1000)
            version = writer.progress(1, percent)
        quick.to_version(version)
        slow.to_version(version)

        assert slow.record.jobs == quick.record.jobs
        assert slow.record.lines == quick.record.lines == writer.state()["lines"]
        deltas = [event for event in slow.record.events if event.id]
        assert len(deltas) < 60, "what was not read was merged"
        # it is as good a viewer as any again
        slow.to_version(writer.finish(0))


def test_ten_thousand_jobs_come_in_pieces(settings: Settings, make_writer: Callable[..., Writer], token: str) -> None:
    writer = make_writer(10_000)
    with watching(settings, writer, token) as (address, _, stream):
        events = stream.record.events
        assert len(events) > 30
        assert [event.id is not None for event in events] == [False] * (len(events) - 1) + [True]
        assert {event.data["batchId"] for event in events} == {str(writer.batch_id)}
        assert max(len(repr(event.data["jobs"])) for event in events) < 1.5 * CHUNK
        assert stream.record.jobs == writer.state()["jobs"]

        writer.cancel()
        rest = stream.rest()
        assert [event.name for event in rest[-2:]] == ["progress", "complete"]
        assert rest[-1].data["jobs"] == []
        assert stream.record.jobs == writer.state()["jobs"]
        with Stream(address, writer.batch_id, token, jobs="none") as again:
            assert [event.name for event in again.rest()] == ["progress", "complete"]


# -- Redis --------------------------------------------------------------------------------------------------------


def test_redis_goes_and_comes_back_and_viewers_notice_nothing(
    settings: Settings, make_writer: Callable[..., Writer], token: str, valkey: Valkey
) -> None:
    settings = replace(settings, redis_url=valkey.url, poll=0.2, version_check=600)
    writer = make_writer(2, of=settings)
    with watching(settings, writer, token) as (address, _, stream):
        stream.to_version(writer.start(0))
        valkey.stop()
        for percent in (10, 20):
            stream.to_version(writer.progress(0, percent, lines=1))
        assert health(address) == {"status": "ready", "postgresql": "ok", "redis": "away", "schema": "ok"}
        writer.progress(0, 30, lines=1)
        valkey.start()
        wait_for(lambda: health(address)["redis"] == "ok", "the stream service to find Redis again")
        writer.redis_is_back()
        version = writer.progress(0, 40, lines=1)
        stream.to_version(version)

        assert {event.name for event in stream.record.events} == {"log", "progress"}
        assert [n for _, n in stream.record.lines] == [1, 2, 3, 4]
        assert stream.record.jobs == writer.state()["jobs"]


def test_a_service_that_starts_without_redis_polls(
    settings: Settings, make_writer: Callable[..., Writer], token: str, valkey: Valkey
) -> None:
    settings = replace(settings, redis_url=valkey.url, poll=0.2, version_check=600)
    valkey.stop()
    writer = make_writer(2, of=settings)
    with watching(settings, writer, token) as (address, _, stream):
        stream.to_version(writer.start(0))
        valkey.start()
        wait_for(lambda: health(address)["redis"] == "ok", "the stream service to find Redis")
        writer.redis_is_back()
        stream.to_version(writer.progress(0, 10))


def test_a_connection_that_redis_cuts_is_made_again(
    settings: Settings, make_writer: Callable[..., Writer], token: str, valkey: Valkey
) -> None:
    settings = replace(settings, redis_url=valkey.url, poll=600, version_check=600)
    writer = make_writer(2, of=settings)
    with (
        watching(settings, writer, token) as (_, _, stream),
        redis.Redis.from_url(valkey.url) as client,
    ):
        for percent in range(1, 6):
            client.client_kill_filter(_type="pubsub")
            stream.to_version(writer.progress(0, percent) or writer.start(0))
        assert {event.name for event in stream.record.events} == {"progress"}


def test_a_redis_that_does_not_answer_counts_as_away(
    settings: Settings, make_writer: Callable[..., Writer], token: str, valkey: Valkey
) -> None:
    settings = replace(settings, redis_url=valkey.url, poll=0.2, version_check=600)
    writer = make_writer(2, of=settings)
    with watching(settings, writer, token) as (address, _, stream):
        os.kill(valkey.pid, signal.SIGSTOP)
        try:
            wait_for(lambda: health(address)["redis"] == "away", "the stream service to miss Redis")
            writer.publish = False
            stream.to_version(writer.start(0))
        finally:
            os.kill(valkey.pid, signal.SIGCONT)
        wait_for(lambda: health(address)["redis"] == "ok", "the stream service to find Redis again")
        writer.publish = True
        stream.to_version(writer.progress(0, 10))


def test_a_lost_message_is_made_up_for(settings: Settings, make_writer: Callable[..., Writer], token: str) -> None:
    writer = make_writer(2, of=settings)
    with watching(replace(settings, version_check=0.2), writer, token) as (_, _, stream):
        writer.publish = False
        stream.to_version(writer.start(0))


def test_messages_that_do_not_join_on_only_raise_the_question(
    settings: Settings, make_writer: Callable[..., Writer], token: str
) -> None:
    writer = make_writer(2, of=settings)
    channel = batch_channel(settings.namespace, writer.batch_id)
    nonsense = [
        b"",
        b"{}",
        b'{"format": 2, "anything": "else"}',
        b'{"format": 1, "epoch": "ffffffff", "from": 1, "to": 2}',
        b'{"format": 1, "epoch": "ffffffff", "from": 1, "to": 2, "delta": {"batch": 7}}',
    ]
    with (
        watching(settings, writer, token) as (_, _, stream),
        redis.Redis.from_url(settings.redis_url) as client,
    ):
        writer.publish = False
        for number, message in enumerate(nonsense):
            version = writer.progress(0, number) or writer.start(0)
            client.publish(channel, message)
            stream.to_version(version)
        assert {event.name for event in stream.record.events} == {"progress"}
        assert stream.record.jobs == writer.state()["jobs"]


# -- PostgreSQL ---------------------------------------------------------------------------------------------------


def test_postgresql_goes_and_comes_back_and_viewers_notice_nothing(
    settings: Settings, make_writer: Callable[..., Writer], token: str, engine: sa.Engine
) -> None:
    settings = replace(settings, heartbeat=0.2, version_check=0.2)
    writer = make_writer(2, of=settings)
    with watching(settings, writer, token) as (address, _, stream):
        engine.dispose()
        with no_database(settings.database_url):
            assert [stream.next().name for _ in range(3)] == ["ping"] * 3
            assert health(address)["status"] == "not_ready"
            # a viewer that is there already needs no database, and a new one of the same batch neither
            with Stream(address, writer.batch_id, token) as second:
                second.delta()
            with Stream(address, make_id(), token) as refused:
                (error,) = refused.rest()
            with Stream(address, make_id(), token, headers={"Accept": "application/json"}) as unavailable:
                assert unavailable.status == 503
                assert int(unavailable.headers["retry-after"]) > 0
        version = writer.start(0)
        stream.to_version(version)

    assert refused.status == 200
    assert refused.parser.retry[0] >= 2000
    assert (error.name, error.data["code"], error.data["retryable"]) == ("error", "overloaded", True)
    assert {event.name for event in stream.record.events} == {"ping", "progress"}


def make_id() -> str:
    return "01890000-0000-7000-8000-000000000001"


def test_a_new_epoch_resets_viewers(
    settings: Settings, make_writer: Callable[..., Writer], token: str, engine: sa.Engine
) -> None:
    writer = make_writer(2, of=settings)
    with watching(replace(settings, version_check=0.2), writer, token) as (_, _, stream):
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE installation SET secret = 'renewed'"))
        (reset,) = stream.delta()
        stream.delta()
        stream.to_version(writer.start(0))

    assert reset.data == {"reason": "epoch"}
    assert stream.record.jobs == writer.state()["jobs"]


def test_a_topic_that_is_behind_by_an_epoch_asks_before_it_resets(
    settings: Settings, make_writer: Callable[..., Writer], token: str, engine: sa.Engine
) -> None:
    writer = make_writer(2, of=settings)
    with watching(settings, writer, token) as (address, _, stream):
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE installation SET secret = 'renewed'"))
        # a reader comes from another process, which knows of the new epoch already
        record = Record(stream.record.id.replace(stream.record.epoch, writer.state()["epoch"]))
        with Stream(address, writer.batch_id, token, record=record) as reader:
            assert [event.name for event in stream.delta()] == ["reset"]
            writer.start(0)
            assert [event.name for event in reader.delta()] == ["progress"]


def test_versions_that_postgresql_lost_reset_viewers(
    settings: Settings, make_writer: Callable[..., Writer], token: str, engine: sa.Engine
) -> None:
    writer = make_writer(2, of=settings)
    writer.start(0)
    with watching(replace(settings, version_check=0.2), writer, token) as (_, _, stream):
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE jobs SET status = 'QUEUED', attempt = 0, version = 1"))
            connection.execute(sa.text("UPDATE batches SET status = 'QUEUED', version = 1"))
        (reset,) = stream.delta()
        stream.delta()

    assert reset.data == {"reason": "ahead"}
    assert stream.record.version == 1
    assert stream.record.jobs == writer.state()["jobs"]


# -- replicas -----------------------------------------------------------------------------------------------------


def test_a_viewer_goes_on_where_it_was_when_its_process_is_killed(
    settings: Settings, make_writer: Callable[..., Writer], token: str
) -> None:
    writer = make_writer(2, of=settings)
    writer.start(0)
    record = Record()
    with stream_process(settings) as (first, process), stream_process(settings) as (second, _):
        with Stream(first, writer.batch_id, token, record=record) as stream:
            for percent in range(1, 10):
                version = writer.progress(0, percent, lines=3)
            stream.to_version(version)
            process.kill()
            assert stream.rest() == []
        for percent in range(10, 20):
            writer.progress(0, percent, lines=3)
        with Stream(second, writer.batch_id, token, record=record) as stream:
            writer.progress(0, 20, lines=3)
            stream.to_version(writer.finish(0, lines=1))

    assert record.jobs == writer.state()["jobs"]
    assert [n for _, n in record.lines] == list(range(1, 62))
