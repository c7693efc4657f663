"""`GET /api/stream`: whoever watches all batches of an owner is told of each of them, whatever fails meanwhile."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
import redis
import sqlalchemy as sa
from litestar import Litestar
from msgspec.structs import replace

from infra.embedded.valkey import Valkey
from services.stream.app import create_app
from services.stream.feed import LATEST
from shared import models, queries
from shared.auth import Claims, issue_ticket, issue_token
from shared.channels import FORMAT, Frame, Publisher, owner_channel, uncertain
from shared.commit import commit
from shared.deletion import delete_batch
from shared.events import encode
from shared.jobs import JobStatus
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.support.batches import OWNER, cancel, make_batch, wait_for
from tests.support.feeds import FeedRecord, FeedStream
from tests.support.metrics import Numbers
from tests.support.outages import no_database
from tests.support.plain_stream import Plain
from tests.support.sse import certain
from tests.support.streams import health, stream_process, stream_thread
from tests.support.web import assert_problem, client, decoded, served, submit
from tests.support.writer import Writer


@contextmanager
def watching(settings: Settings, token: str, **options: Any) -> Iterator[tuple[str, Litestar, FeedStream]]:
    """A stream service, and somebody who has been shown everything."""
    with stream_thread(settings) as (address, app), FeedStream(address, token, **options) as stream:
        stream.all()
        yield address, app, stream


def shown(writer: Writer) -> dict[str, Any]:
    """What is certain of it."""
    return certain(writer.state()["batch"])


def heard(stream: FeedStream, writer: Writer, version: int) -> dict[str, Any]:
    """The same of what it is told to be at that version."""
    batch = stream.to(writer.batch_id, version)
    assert batch is not None
    return certain(batch)


# -- what is told -------------------------------------------------------------------------------------------------


def test_a_batch_from_its_creation_to_its_deletion(settings: Settings, token: str) -> None:
    with (
        stream_process(settings, "infra.web") as (address, _),
        client(address, settings) as api,
        FeedStream(address, token) as stream,
    ):
        assert stream.all() == []
        batch = submit(api)
        path = f"/api/batches/{batch['batchId']}"
        first = stream.to(batch["batchId"], 1)
        assert first == {name: value for name, value in batch.items() if name not in {"streamUrl", "webUrl"}}
        paused = decoded(api.post(f"{path}/pause"))
        assert stream.to(batch["batchId"], 2) == paused
        cancelled = decoded(api.post(f"{path}/cancel"))
        assert stream.to(batch["batchId"], cancelled["version"]) == cancelled
        other = submit(api)
        stream.to(other["batchId"], 1)
        assert api.delete(path).status_code == 204
        assert stream.to(batch["batchId"], None) is None
        with FeedStream(address, token) as late:
            assert late.all() == [other["batchId"]]


def test_every_change_is_told_as_it_is_and_nothing_else_is(
    settings: Settings, make_writer: Callable[..., Writer], token: str
) -> None:
    writers = [make_writer(2) for _ in range(3)]
    with watching(replace(settings, window=0), token) as (_, _, stream):
        told = {batch_id: certain(batch) for batch_id, batch in stream.record.batches.items()}
        assert told == {str(writer.batch_id): shown(writer) for writer in writers}
        assert stream.parser.retry == [2000]
        for step in (lambda one: one.start(0), lambda one: one.progress(0, 30, lines=9), lambda one: one.finish(0)):
            for writer in writers:
                version = step(writer)
                assert heard(stream, writer, version) == shown(writer)
        assert stream.names == ["batches", *["batch"] * 9]


def test_changes_close_together_come_together(
    settings: Settings, make_writer: Callable[..., Writer], token: str
) -> None:
    one, other = make_writer(), make_writer()
    with watching(replace(settings, window=1), token) as (_, _, stream):
        began = time.monotonic()
        one.start(0)
        other.start(0)
        for percent in range(1, 20):
            one.progress(0, percent)
            other.progress(0, percent)
        assert heard(stream, one, 21) == shown(one)
        assert heard(stream, other, 21) == shown(other)
        windows = time.monotonic() - began  # a second each
        assert len(stream.names) <= 1 + 2 * (1 + windows)


def test_nobody_hears_of_somebody_elses_batches(
    settings: Settings, make_writer: Callable[..., Writer], token: str
) -> None:
    mine, theirs = make_writer(), make_writer(owner="bert")
    with (
        watching(settings, token) as (address, _, stream),
        FeedStream(address, issue_token(settings, "bert")) as other,
    ):
        assert other.all() == [str(theirs.batch_id)]
        versions = [(writer.start(0), writer.progress(0, 5))[-1] for writer in (theirs, mine)]
        other.to(theirs.batch_id, versions[0])
        stream.to(mine.batch_id, versions[1])
        assert stream.record.batches.keys() == {str(mine.batch_id)}
        assert other.record.batches.keys() == {str(theirs.batch_id)}


def test_it_comes_whole_where_sockets_are_not_handed_over(
    settings: Settings, make_writer: Callable[..., Writer], token: str
) -> None:
    writers = [make_writer(metadata={"note": "x" * 10_000}) for _ in range(20)]
    with served(Plain(create_app(settings))) as address, FeedStream(address, token) as stream:
        assert len(stream.all()) == 20
        for writer in writers:
            stream.to(writer.batch_id, writer.start(0))


def test_a_frame_with_too_much_in_it_for_everybody_still_has_the_batch(
    settings: Settings, make_writer: Callable[..., Writer], token: str
) -> None:
    writer, large = make_writer(), make_writer(metadata={"note": "x" * 70_000})
    with watching(replace(settings, version_check=600), token) as (address, _, stream):
        numbers = Numbers(address)
        writer.start(0)
        version = writer.progress(0, 1, lines=20, text="x" * 8000)
        assert bytes(writer.frames[-1].delta) == b"null"
        assert heard(stream, writer, version) == shown(writer)
        assert numbers["frames_total{large}"] == 0
        version = large.start(0)
        assert bytes(large.frames[-1].batch) == b"null"
        assert heard(stream, large, version) == shown(large)
        assert numbers["frames_total{large}"] == 1


def test_where_nobody_knows_whether_it_was_committed_it_is_looked_up(
    settings: Settings, make_writer: Callable[..., Writer], token: str, engine: sa.Engine
) -> None:
    writer, gone = make_writer(), make_writer()
    cancel(engine, gone.batch_id)
    with (
        watching(replace(settings, version_check=600), token) as (_, _, stream),
        make_redis(settings.redis_url) as hints,
    ):
        publisher = Publisher(hints, settings.namespace)
        writer.publish = False
        version = writer.start(0)
        publisher.publish(writer.batch_id, uncertain(writer.frames[-1]))
        assert heard(stream, writer, version) == shown(writer)
        with engine.connect() as connection:
            frame = delete_batch(connection, gone.batch_id, upload_ttl=60)
            connection.commit()
        publisher.publish(gone.batch_id, uncertain(frame))
        stream.to(gone.batch_id, None)


def test_what_is_deleted_after_its_time_is_told_without_a_question(
    settings: Settings, make_writer: Callable[..., Writer], token: str, engine: sa.Engine
) -> None:
    gone, old = make_writer(), make_writer()
    for writer in (gone, old):
        cancel(engine, writer.batch_id)
    with (
        watching(replace(settings, version_check=600), token) as (address, _, stream),
        make_redis(settings.redis_url) as hints,
    ):
        before = Numbers(address)["readings_total{answered}"]
        with engine.connect() as connection:
            frame = delete_batch(connection, gone.batch_id, upload_ttl=60)
            commit(connection, Publisher(hints, settings.namespace), gone.batch_id, frame)
        stream.to(gone.batch_id, None)
        assert Numbers(address)["readings_total{answered}"] == before


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{}",
        b'{"format": 2, "anything": "else"}',
        b'{"format": 1, "epoch": "ffffffff", "batchId": "01890000-0000-7000-8000-000000000001"}',
        b'{"format": 1, "epoch": "EPOCH", "batchId": "01890000-0000-7000-8000-000000000001", "batch": {"version": 7}}',
    ],
)
def test_messages_that_make_no_sense_only_raise_the_question(
    settings: Settings, make_writer: Callable[..., Writer], token: str, message: bytes
) -> None:
    writer = make_writer()
    with (
        watching(replace(settings, version_check=600), token) as (_, _, stream),
        redis.Redis.from_url(settings.redis_url) as hints,
    ):
        writer.publish = False
        version = writer.start(0)
        epoch = writer.state()["epoch"].encode()
        hints.publish(owner_channel(settings.namespace, OWNER), message.replace(b"EPOCH", epoch))
        assert heard(stream, writer, version) == shown(writer)
        assert stream.names == ["batches", "batch"]


def test_only_active_and_latest_ones_come_first(settings: Settings, engine: sa.Engine, token: str) -> None:
    batches = [str(make_batch(engine)) for _ in range(LATEST + 10)]
    for batch in batches[:3]:
        cancel(engine, UUID(batch))
    with served(create_app(settings)) as address, FeedStream(address, token) as stream:
        assert stream.all() == batches[:2:-1]


# -- who may watch ------------------------------------------------------------------------------------------------


def test_only_a_token_that_may_read_opens_it(
    address: str, settings: Settings, make_writer: Callable[..., Writer], token: str
) -> None:
    url = f"{address}/api/stream"
    ticket, _ = issue_ticket(settings, Claims(OWNER, None, time.time() + 60), make_writer().batch_id)
    assert_problem(httpx.get(url, trust_env=False), 401, "unauthenticated")
    assert_problem(httpx.get(url, params={"ticket": ticket}, trust_env=False), 401, "unauthenticated")
    writing = {"Authorization": f"Bearer {issue_token(settings, OWNER, scope='write')}"}
    assert_problem(httpx.get(url, headers=writing, trust_env=False), 403, "forbidden")
    mine = {"Authorization": f"Bearer {token}"}
    assert_problem(httpx.get(url, headers=mine, params={"jobs": "all"}, trust_env=False), 422, "invalid")
    assert_problem(httpx.post(url, headers=mine, trust_env=False), 405, "method_not_allowed")


def test_head_is_answered_at_once_with_the_same_headers(address: str, token: str) -> None:
    with (
        FeedStream(address, token, method="HEAD") as asked,
        FeedStream(address, token) as watched,
        FeedStream(address, token, headers={"Last-Event-ID": "0badcafe-12ab-7-arr"}) as returned,
    ):
        assert (asked.status, asked.rest()) == (200, [])
        assert watched.all() == returned.all() == []
        for name in ("content-type", "cache-control", "x-accel-buffering"):
            assert asked.headers[name] == watched.headers[name]


def test_it_ends_as_streams_do(settings: Settings, token: str) -> None:
    settings = replace(settings, heartbeat=0.1, lifetime=2)
    with watching(settings, token) as (_, _, stream):
        *pings, end = stream.rest()
        assert {event.name for event in pings} == {"ping"}
        assert (end.name, end.data) == ("timeout", {"reason": "lifetime"})
    settings = replace(settings, lifetime=600)
    with (
        stream_thread(settings) as (address, _),
        FeedStream(address, issue_token(settings, OWNER, ttl=4)) as stream,
    ):
        stream.all()
        assert stream.rest()[-1].data == {"reason": "token_expired"}


def test_it_counts_for_the_limit_of_its_owner(settings: Settings, token: str) -> None:
    with watching(replace(settings, owner_viewers=1), token) as (address, _, _):
        with FeedStream(address, token) as second:
            assert second.status == 200
            (error,) = second.rest()
        with FeedStream(address, token, headers={"Accept": "application/json"}) as other:
            assert other.status == 429
    assert (error.name, error.data["code"], error.data["retryable"]) == ("error", "too_many_connections", True)


def test_a_process_that_leaves_says_so(settings: Settings, token: str) -> None:
    with (
        stream_process(replace(settings, drain_grace=4)) as (address, process),
        FeedStream(address, token) as stream,
    ):
        stream.all()
        process.send_signal(signal.SIGTERM)
        (error,) = stream.rest()
        assert (error.name, error.data["code"]) == ("error", "draining")
        assert stream.parser.retry[-1] >= 2000


def test_many_share_one_subscription_that_ends_a_while_after_the_last(
    settings: Settings, make_writer: Callable[..., Writer], token: str
) -> None:
    writer = make_writer()
    channel = owner_channel(settings.namespace, OWNER)
    with redis.Redis.from_url(settings.redis_url) as hints, watching(settings, token) as (address, app, stream):
        hub = app.state.hub
        hub.topics.linger = 0.3
        with FeedStream(address, token) as other:
            other.all()
            assert hints.pubsub_numsub(channel)[0][1] == 1
            assert list(hub.topics.keepers) == [OWNER]
            feed = hub.topics.keepers[OWNER].topic
            version = writer.start(0)
            for one in (stream, other):
                one.to(writer.batch_id, version)
        stream.close()
        wait_for(lambda: not hub.topics.keepers, "the feed to be closed")
        wait_for(lambda: hints.pubsub_numsub(channel)[0][1] == 0, "the subscription to end")
        wait_for(lambda: not feed.version, "the feed to be emptied")


# -- what fails ---------------------------------------------------------------------------------------------------


def test_redis_goes_and_comes_back_and_only_what_changed_is_told(
    settings: Settings, make_writer: Callable[..., Writer], token: str, valkey: Valkey, engine: sa.Engine
) -> None:
    settings = replace(settings, redis_url=valkey.url, poll=0.2, version_check=600)
    writer, gone, _idle = (make_writer(of=settings) for _ in range(3))
    cancel(engine, gone.batch_id)
    with watching(settings, token) as (address, _, stream):
        stream.to(writer.batch_id, writer.start(0))
        valkey.stop()
        stream.to(writer.batch_id, writer.progress(0, 10))
        added = make_writer(of=settings)
        stream.to(added.batch_id, 1)
        with engine.connect() as connection:
            delete_batch(connection, gone.batch_id, upload_ttl=60)
            connection.commit()
        stream.to(gone.batch_id, None)
        writer.progress(0, 20)
        valkey.start()
        wait_for(lambda: health(address)["redis"] == "ok", "the stream service to find Redis again")
        writer.redis_is_back()
        stream.to(writer.batch_id, writer.progress(0, 30))
        assert stream.names.count("batches") == 1
        assert "error" not in stream.names
        told = {event.data["batchId"] for event in stream.record.events if event.name == "batch"}
        assert told == {str(one.batch_id) for one in (writer, added, gone)}


def test_a_batch_that_ends_behind_many_others_while_redis_is_away_is_not_taken_for_deleted(
    settings: Settings, make_writer: Callable[..., Writer], token: str, engine: sa.Engine
) -> None:
    writer = make_writer()
    writer.start(0)
    for _ in range(LATEST + 1):
        cancel(engine, make_batch(engine))
    with watching(replace(settings, version_check=0.2), token) as (_, _, stream):
        assert str(writer.batch_id) in stream.record.batches
        writer.publish = False
        ended = heard(stream, writer, writer.finish(0, JobStatus.COMPLETED))
        assert ended == shown(writer)
        with engine.connect() as connection:
            delete_batch(connection, writer.batch_id, upload_ttl=60)
            connection.commit()
        stream.to(writer.batch_id, None)
        assert stream.names.count("batches") == 1


def test_a_lost_message_is_made_up_for(settings: Settings, make_writer: Callable[..., Writer], token: str) -> None:
    writer = make_writer()
    with watching(replace(settings, version_check=0.2), token) as (_, _, stream):
        writer.publish = False
        stream.to(writer.batch_id, writer.start(0))
        stream.to(make_writer().batch_id, 1)


def test_a_connection_that_redis_cuts_is_made_again(
    settings: Settings, make_writer: Callable[..., Writer], token: str, valkey: Valkey
) -> None:
    settings = replace(settings, redis_url=valkey.url, poll=600, version_check=600)
    writer = make_writer(of=settings)
    with watching(settings, token) as (_, _, stream), redis.Redis.from_url(valkey.url) as hints:
        for percent in range(1, 4):
            hints.client_kill_filter(_type="pubsub")
            stream.to(writer.batch_id, writer.progress(0, percent) or writer.start(0))


def test_postgresql_goes_and_comes_back(
    settings: Settings, make_writer: Callable[..., Writer], token: str, engine: sa.Engine
) -> None:
    settings = replace(settings, heartbeat=0.2, version_check=0.2)
    writer = make_writer()
    with watching(settings, token) as (address, _, stream):
        engine.dispose()
        with no_database(settings.database_url):
            assert [stream.next().name for _ in range(3)] == ["ping"] * 3
            with FeedStream(address, token) as second:
                assert second.all() == [str(writer.batch_id)], "of what is watched already, the feed knows"
            with FeedStream(address, issue_token(settings, "bert")) as refused:
                (error,) = refused.rest()
        stream.to(writer.batch_id, writer.start(0))
        assert stream.names.count("batches") == 1
    assert (error.name, error.data["code"], error.data["retryable"]) == ("error", "overloaded", True)


def test_after_another_epoch_everybody_is_shown_everything_anew(
    settings: Settings, make_writer: Callable[..., Writer], token: str, engine: sa.Engine
) -> None:
    writer, lost = make_writer(), make_writer()
    with (
        watching(replace(settings, version_check=0.2), token) as (address, _, stream),
        FeedStream(address, token) as other,
    ):
        other.all()
        stream.to(writer.batch_id, writer.start(0))
        version = writer.progress(0, 10)
        with engine.begin() as connection:  # as if an older state of the database had been restored
            connection.execute(queries.ROTATE_EPOCH)
            connection.execute(sa.delete(models.batches).where(models.batches.c.id == lost.batch_id))
            connection.execute(
                sa.update(models.batches).where(models.batches.c.id == writer.batch_id).values(version=version - 1)
            )
        for one in (stream, other):
            while one.record.batches.keys() != {str(writer.batch_id)}:
                one.next()
            assert one.names.count("batches") == 2
            assert one.record.batches[str(writer.batch_id)]["version"] == version - 1
        stream.to(writer.batch_id, writer.progress(0, 20))


def test_whoever_comes_back_is_shown_everything_again(
    settings: Settings, make_writer: Callable[..., Writer], token: str
) -> None:
    writer, record = make_writer(), FeedRecord()
    with watching(settings, token, record=record) as (address, _, stream):
        stream.close()
        writer.start(0)
        with FeedStream(address, token, record=record) as again:
            again.to(writer.batch_id, 2)
    assert [event.name for event in record.events][:2] == ["batches", "batches"]


def test_what_is_sent_to_stream_processes_is_small(settings: Settings, make_writer: Callable[..., Writer]) -> None:
    """Each says only once what is told to both."""
    channel = owner_channel(settings.namespace, OWNER)
    with redis.Redis.from_url(settings.redis_url) as hints, hints.pubsub() as heard:
        heard.psubscribe(f"{settings.namespace}headway:*")
        heard.get_message(timeout=5)
        writer = make_writer()
        writer.start(0)
        messages = [heard.get_message(timeout=5) for _ in range(2)]
    sent = {message["channel"].decode(): message["data"] for message in messages if message}
    batch = encode(writer.state()["batch"])
    assert sum(data.count(batch) for data in sent.values()) == 2
    assert len(sent[channel]) < len(batch) + 150
    assert encode(Frame(FORMAT, "0badcafe", 1, 2)) == b'{"format":1,"epoch":"0badcafe","from":1,"to":2}'
