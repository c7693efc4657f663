"""Every number of `/metrics` moves when what it counts happens, and only then."""

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import redis
import sqlalchemy as sa
from msgspec.json import decode
from msgspec.structs import replace

from infra.embedded.valkey import Valkey
from services.stream.app import create_app
from services.stream.metrics import Metrics
from services.stream.pump import Pump
from services.stream.wheel import Wheel
from shared import models
from shared.auth import issue_token
from shared.channels import FORMAT, Frame, batch_channel
from shared.event_ids import EventId, Filters, batch_check
from shared.events import encode
from shared.settings import Settings
from tests.support.batches import OWNER, wait_for
from tests.support.metrics import Numbers
from tests.support.ports import own_port
from tests.support.sse import Record, Stream
from tests.support.streams import SEND_BUFFER, stream_process, stream_thread
from tests.support.web import served
from tests.support.websockets import TEXT, RawSocket, Reader, frame
from tests.support.writer import Writer


@pytest.fixture
def writer(make_writer: Callable[..., Writer]) -> Writer:
    return make_writer()


def test_a_batch_that_is_watched_to_its_end(settings: Settings, writer: Writer, token: str) -> None:
    # looking again every few seconds is not for viewers
    with stream_process(replace(settings, drain_grace=20, version_check=600)) as (address, process):
        numbers = Numbers(address)
        numbers.wait("redis_up", 1)
        fresh = numbers.read()
        assert fresh["process_open_fds"] > 0
        assert fresh["viewers_limit"] == settings.viewers
        idle = {
            "viewers_limit",
            "redis_up",
            "subscriptions_total",
            "comparisons_total{check}",
            "readings_total{answered}",
        }
        ours = {name for name in fresh if not name.startswith(("process_", "python_"))}
        moving = {name for name in ours - idle if fresh[name]}
        assert moving <= {"comparisons_total{poll}", "stalls_total", "longest_stall_seconds"}

        with Stream(address, writer.batch_id, token) as stream, Stream(address, writer.batch_id, token) as second:
            stream.delta()
            second.delta()
            begun = numbers.read()
            stream.to_version(writer.start(0))
            stream.to_version(writer.progress(0, 50))
            second.to_version(stream.record.version)
            told = numbers.read()
            last = writer.finish(0)
            stream.rest()
            second.rest()
        numbers.wait("viewers", 0)
        ended = numbers.read()

        with Stream(address, writer.batch_id, token) as leaving:
            leaving.delta()
        with Stream(address, writer.batch_id, token, record=Record(stream.record.id)) as done:
            assert done.status == 204
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: numbers["refusals_total{draining}"] or _refused(address, writer, token), "it to drain")
        assert numbers["refusals_total{draining}"] >= 1

    assert last == stream.record.version
    assert [begun[name] for name in ("viewers", "topics", "connections{events}")] == [2, 1, 2]
    assert begun["connections_opened_total{events}"] == 2
    assert begun["deliveries_total"] == 2
    assert begun["lag_seconds_count"] == 0, "a snapshot says nothing of how fast changes travel"
    assert begun["readings_total{answered}"] > 0
    assert begun["frames_total{applied}"] == 0
    assert told["frames_total{applied}"] == 2
    assert told["deliveries_total"] == 6
    assert told["lag_seconds_count"] == 4
    assert 0 < told["lag_seconds_sum"] < 20
    assert told["readings_total{answered}"] == begun["readings_total{answered}"], "viewers cost PostgreSQL nothing"
    assert begun["written_bytes_total"] < told["written_bytes_total"] < ended["written_bytes_total"]
    assert ended["deliveries_total"] == 8
    assert ended["lag_seconds_count"] == 6
    assert ended["connections_closed_total{finished,events}"] == 2
    assert ended["connections{events}"] == 0


def _refused(address: str, writer: Writer, token: str) -> bool:
    with Stream(address, writer.batch_id, token) as stream:
        stream.rest()
    return False


def test_bytes_are_all_that_was_written(settings: Settings, writer: Writer, token: str) -> None:
    with served(create_app(settings)) as address:
        numbers = Numbers(address)
        url = f"{address}/api/batches/{writer.batch_id}/stream"
        with httpx.stream("GET", url, headers={"Authorization": f"Bearer {token}"}, trust_env=False) as reply:
            writer.start(0)
            writer.progress(0, 50, lines=20, text="x" * 100)
            writer.finish(0)
            received = sum(len(part) for part in reply.iter_raw())
        assert numbers["written_bytes_total"] == received


def test_where_readers_go_on(settings: Settings, writer: Writer, token: str) -> None:
    writer.start(0)
    writer.progress(0, 10, lines=5)
    with served(create_app(settings)) as address:
        numbers = Numbers(address)

        def come_back(last_id: str, **query: int) -> Record:
            with Stream(address, writer.batch_id, token, record=Record(last_id), **query) as stream:
                stream.delta()
                stream.to_version(1)
                return stream.record

        known = come_back("").id
        assert not any(value for name, value in numbers.read().items() if name.startswith(("resumes", "resets")))
        writer.progress(0, 20)
        come_back(known)
        assert numbers["resumes_total{memory}"] == 1
        epoch = known.partition("-")[0]
        old = str(EventId(epoch, batch_check(writer.batch_id), 1, Filters("all", 1000)))
        writer.progress(0, 30, lines=1100)
        with Stream(address, writer.batch_id, token) as stream:  # the older lines are in memory no more
            stream.to_version(5)
            come_back(old)
        assert numbers["resumes_total{postgresql}"] == 1
        ahead = str(EventId(epoch, batch_check(writer.batch_id), 999, Filters("all", 1000)))
        elsewhere = str(EventId("0" * len(epoch), batch_check(writer.batch_id), 1, Filters("all", 1000)))
        come_back("nonsense")
        come_back(known, logs=7)
        come_back(ahead)
        come_back(elsewhere)
        read = numbers.read()

    assert {name: read[f"resets_total{{{name}}}"] for name in ("invalid_id", "filters", "ahead", "epoch")} == {
        "invalid_id": 1,
        "filters": 1,
        "ahead": 1,
        "epoch": 1,
    }
    assert read["resumes_total{snapshot}"] == 4
    assert read["resumes_total{memory}"] == 1


def test_what_becomes_of_frames(settings: Settings, writer: Writer, token: str) -> None:
    with (
        stream_thread(settings) as (address, _),
        Stream(address, writer.batch_id, token) as stream,
        redis.Redis.from_url(settings.redis_url) as client,
    ):
        numbers = Numbers(address)
        stream.to_version(1)
        channel = batch_channel(settings.namespace, writer.batch_id)

        writer.publish = False
        writer.start(0)
        writer.publish = True
        stream.to_version(writer.progress(0, 1))
        assert numbers["frames_total{gap}"] == 1
        client.publish(channel, encode(writer.frames[0]))
        numbers.wait("frames_total{dropped}", 1)
        stream.to_version(writer.progress(0, 2, lines=20, text="x" * 8000))
        numbers.wait("frames_total{large}", 1)
        before = numbers["lag_seconds_count"]
        assert before == 2, "also of those whose content came from PostgreSQL"
        client.publish(channel, encode(Frame(FORMAT + 1, "", 0, 0)))
        client.publish(channel, encode(replace(writer.frames[-1], epoch="elsewhere")))
        numbers.wait("frames_total{foreign}", 2)
        client.publish(channel, as_before(writer.frames[-1]))
        numbers.wait("frames_total{dropped}", 2)


def as_before(frame: Frame) -> bytes:
    """As those write it who do not know of `at` yet."""
    fields = decode(encode(frame))
    assert fields.pop("at") > 0
    return encode(fields)


def test_readers_that_do_not_keep_up(settings: Settings, writer: Writer, token: str) -> None:
    with (
        stream_process(replace(settings, window=0)) as (address, _),
        Stream(address, writer.batch_id, token) as quick,
        Stream(address, writer.batch_id, token, receive_buffer=4096) as slow,
    ):
        numbers = Numbers(address)
        quick.delta()
        slow.delta()
        version = writer.start(0)
        for percent in range(10):
            version = writer.progress(0, percent)
            quick.to_version(version)
        assert numbers["merges_total"] == 0
        for percent in range(10, 70):
            version = writer.progress(0, percent, lines=20, text="x" * 2000)
            quick.to_version(version)
        slow.to_version(version)
        assert numbers["merges_total"] >= 1


def test_who_is_not_let_in(settings: Settings, writer: Writer, token: str) -> None:
    limits = replace(settings, viewers=3, owner_viewers=2)
    with (
        served(create_app(limits)) as address,
        Stream(address, writer.batch_id, token) as one,
        RawSocket(address, issue_token(settings, "berta")),
        Stream(address, writer.batch_id, token) as two,
    ):
        numbers = Numbers(address)
        one.delta()
        two.delta()
        numbers.wait("viewers", 3)
        with Stream(address, writer.batch_id, token) as third:
            third.rest()
        assert numbers["refusals_total{process}"] == 1
        one.close()
        numbers.wait("viewers", 2)
        with Stream(address, writer.batch_id, token) as again, Stream(address, writer.batch_id, token) as fourth:
            again.delta()
            fourth.rest()
        assert numbers["refusals_total{process}"] == 2
    with (
        served(create_app(replace(settings, owner_viewers=1))) as address,
        Stream(address, writer.batch_id, token) as one,
    ):
        numbers = Numbers(address)
        one.delta()
        with Stream(address, writer.batch_id, token) as second:
            second.rest()
        assert numbers["refusals_total{owner}"] + numbers["connections_closed_total{too_many_connections,events}"] == 1


def test_why_connections_end(settings: Settings, writer: Writer, token: str) -> None:
    with (
        stream_thread(replace(settings, lifetime=0.5)) as (address, _),
        Stream(address, writer.batch_id, token) as stream,
    ):
        assert stream.rest()[-1].name == "timeout"
        Numbers(address).wait("connections_closed_total{lifetime,events}", 1)
    with stream_thread(settings) as (address, _), Stream(address, writer.batch_id, token) as stream:
        stream.delta()
        writer.delete()
        assert stream.rest()[-1].data["code"] == "deleted"
        Numbers(address).wait("connections_closed_total{deleted,events}", 1)
    again = Writer(writer.engine, settings)
    try:
        with stream_thread(settings) as (address, _):
            numbers = Numbers(address)
            with Stream(address, again.batch_id, issue_token(settings, OWNER, ttl=4)) as stream:
                assert stream.rest()[-1].data["reason"] == "token_expired"
            with Stream(address, again.batch_id, token) as stream:
                stream.delta()
            numbers.wait("connections_closed_total{gone,events}", 1)
            numbers.wait("connections_closed_total{token_expired,events}", 1)
            with RawSocket(address, token) as socket:
                reader = Reader(socket)
                reader.subscribe(f"batch:{again.batch_id}")
                reader.until(lambda said: said["id"] is not None)
                read = numbers.read()
                assert [read["connections{websocket}"], read["viewers"], read["connections{events}"]] == [1, 2, 0]
                written = read["written_bytes_total"]
                again.start(0)
                reader.until(lambda said: said["id"] is not None)
                assert numbers["written_bytes_total"] > written
                assert numbers["lag_seconds_count"] == 1
            numbers.wait("connections_closed_total{gone,websocket}", 1)
    finally:
        again.close()


def test_who_reads_nothing_is_cut_off(settings: Settings, make_writer: Callable[..., Writer], token: str) -> None:
    """More than the kernel takes, until the end of a short life and a heartbeat more."""
    large = make_writer(1500)
    topic = f"batch:{large.batch_id}"
    with (
        stream_thread(replace(settings, lifetime=1, heartbeat=0.5), send_buffer=SEND_BUFFER) as (address, app),
        Stream(address, large.batch_id, token, receive_buffer=4096),
        RawSocket(address, token, receive_buffer=4096) as socket,
    ):
        socket.say(type="subscribe", topic=topic)
        wait_for(lambda: app.state.hub.present == 3, "both to be in")
        numbers = Numbers(address)
        numbers.wait("connections_closed_total{stuck,events}", 1)
        numbers.wait("connections_closed_total{stuck,websocket}", 1)
        read = numbers.read()
        assert [read["viewers"], read["connections{events}"], read["connections{websocket}"]] == [0, 0, 0]
        assert {name for name, value in read.items() if name.startswith("connections_closed") and value} == {
            "connections_closed_total{stuck,events}",
            "connections_closed_total{stuck,websocket}",
        }


def test_who_makes_no_sense_is_sent_away(settings: Settings, token: str) -> None:
    with stream_thread(settings) as (address, _):
        numbers = Numbers(address)
        with RawSocket(address, token) as talking:
            talking.send(*[frame(TEXT, b'{"type": "unsubscribe", "topic": "batches"}')] * 60)
            assert talking.end() == 4429
        numbers.wait("connections_closed_total{misbehaved,websocket}", 1)
        with RawSocket(address, token) as senseless:
            senseless.send(*[frame(TEXT, b"?")] * 21)
            assert senseless.end() == 1008
        numbers.wait("connections_closed_total{misbehaved,websocket}", 2)
        assert numbers["connections_closed_total{gone,websocket}"] == 0


def test_what_cannot_be_told_by_a_mistake_of_ours(settings: Settings, writer: Writer, token: str) -> None:
    """A batch in a state that this version does not know."""
    with writer.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE batches DROP CONSTRAINT ck_batches_status"))
        connection.execute(sa.update(models.batches).values(status="STRANGE"))
    with stream_thread(settings) as (address, _):
        for times in (1, 2):
            with Stream(address, writer.batch_id, token) as stream:
                (error,) = stream.rest()
            assert (error.name, error.data["code"], error.data["retryable"]) == ("error", "internal", True)
            assert Numbers(address)["refusals_total{internal}"] == times


def test_the_lag_of_who_takes_a_delta_late_is_as_long_as_that_took(
    settings: Settings, writer: Writer, token: str
) -> None:
    with (
        stream_thread(replace(settings, window=0), send_buffer=SEND_BUFFER) as (address, app),
        Stream(address, writer.batch_id, token) as quick,
        Stream(address, writer.batch_id, token, receive_buffer=4096) as slow,
    ):
        numbers = Numbers(address)
        for stream in (quick, slow):
            stream.to_version(1)
        writer.start(0)
        for stream in (quick, slow):
            stream.to_version(2)
        (crowd,) = app.state.hub.topics.keepers[writer.batch_id].topic.audience.crowds.values()
        wait_for(lambda: len(crowd.members) == 2, "both to be at rest")
        before = numbers.read()
        version = writer.progress(0, 50, lines=25, text="x" * 2000)  # one chunk, and more than the kernel takes
        written = time.monotonic()
        quick.to_version(version)
        numbers.wait("lag_seconds_count", before["lag_seconds_count"] + 1)
        wait_for(lambda: time.monotonic() > written + 1, "a second to pass")
        assert numbers["lag_seconds_count"] == before["lag_seconds_count"] + 1, "it has only the beginning"
        slow.to_version(version)
        numbers.wait("lag_seconds_count", before["lag_seconds_count"] + 2)
        assert numbers["lag_seconds_sum"] > before["lag_seconds_sum"] + 1


def test_redis_goes_away_and_comes_back(settings: Settings, writer: Writer, token: str, tmp_path: Path) -> None:
    valkey = Valkey(tmp_path / "valkey", own_port())
    valkey.start()
    try:
        with (
            stream_thread(replace(settings, redis_url=valkey.url, poll=0.1)) as (address, _),
            Stream(address, writer.batch_id, token) as stream,
        ):
            numbers = Numbers(address)
            stream.delta()
            assert numbers["redis_up"] == 1
            assert numbers["subscriptions_total"] == 1
            polls = numbers["comparisons_total{poll}"]
            valkey.stop()
            numbers.wait("redis_up", 0)
            numbers.wait("comparisons_total{poll}", lambda polled: polled > polls + 2)
            valkey.start()
            numbers.wait("redis_up", 1)
            assert numbers["subscriptions_total"] == 2
    finally:
        valkey.stop()


class Turn:
    """Somebody's, who has nothing to say."""

    queued = False

    def turn(self, now: float) -> None: ...

    def cut(self) -> None: ...


@pytest.mark.parametrize("idle", [True, False])
async def test_a_loop_that_comes_late(*, idle: bool) -> None:
    metrics = Metrics()
    pump, wheel = Pump(metrics), Wheel(0.1, metrics)
    if idle:
        wheel.start()
        await asyncio.sleep(0)
    else:
        pump.add(Turn())
    time.sleep(0.5)  # noqa: ASYNC251  # what nobody should do
    await asyncio.sleep(0.2)
    wheel.stop()
    assert metrics.stalls
    assert 0.3 < metrics.longest_stall < 5
