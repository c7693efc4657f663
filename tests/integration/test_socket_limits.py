"""How many WebSockets and topics there may be: of an owner, of an address, in a process; and of those nobody knows."""

from collections.abc import Callable
from contextlib import ExitStack

import pytest
import redis
from msgspec.structs import replace

from services.stream import websocket
from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import wait_for
from tests.support.metrics import Numbers
from tests.support.sse import Stream
from tests.support.streams import stream_thread
from tests.support.topics import topics
from tests.support.websockets import RawSocket, Reader
from tests.support.writer import Writer


def refused(reader: Reader, topic: str) -> bool:
    """Whether there are too many for it."""
    said = reader.until(lambda said: said["type"] == "error" or (said["topic"] == topic and said["id"]))[-1]
    if said["type"] != "error":
        return False
    assert (said["topic"], said["code"]) == (topic, "too_many_connections")
    return True


# -- topics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["owner_viewers", "address_viewers", "viewers"])
def test_a_connection_and_each_of_its_topics_are_viewers(
    settings: Settings, writer: Writer, token: str, limit: str
) -> None:
    batch, logs, job = topics(writer)
    with stream_thread(replace(settings, **{limit: 3})) as (address, app), RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(batch, logs)
        reader.catch_up()
        assert app.state.hub.present == 3
        for _ in range(2):
            reader.subscribe(job)
            assert refused(reader, job), "and the connection stays"
        with RawSocket(address, token) as second:
            assert second.status == 429
        with Stream(address, writer.batch_id, token) as stream:
            assert stream.next().data["code"] == "too_many_connections"
        reader.to_version(writer.start(0), [batch])

        socket.say(type="unsubscribe", topic=logs)
        wait_for(lambda: app.state.hub.present == 2, "the topic to be left")
        reader.subscribe(job)
        assert not refused(reader, job)


def test_a_few_sockets_of_one_owner_do_not_fill_a_process(
    settings: Settings, make_writer: Callable[..., Writer], token: str
) -> None:
    writers = [make_writer() for _ in range(4)]
    limits = replace(settings, viewers=10, owner_viewers=8)
    with stream_thread(limits) as (address, app), ExitStack() as stack:
        refusals = 0
        for _ in range(2):
            reader = Reader(stack.enter_context(RawSocket(address, token)))
            for writer in writers:
                reader.subscribe(f"batch:{writer.batch_id}")
                refusals += refused(reader, f"batch:{writer.batch_id}")
        assert refusals == 2
        assert app.state.hub.present == 8
        with RawSocket(address, issue_token(settings, "berta")) as other:
            assert other.status == 101
            berta = Reader(other)
            berta.subscribe("batches")
            assert berta.next()["type"] == "batches"


def test_a_topic_that_redis_refuses_late_ends_and_its_connection_stays(
    settings: Settings, writer: Writer, token: str
) -> None:
    batch, logs, _ = topics(writer)
    limits = replace(settings, owner_viewers=3)
    with (
        stream_thread(limits) as (one, _),
        stream_thread(limits) as (two, app),
        Stream(one, writer.batch_id, token) as elsewhere,
        RawSocket(two, token) as socket,
        redis.Redis.from_url(settings.redis_url) as client,
    ):
        elsewhere.delta()
        reader = Reader(socket)
        reader.subscribe(batch)
        reader.catch_up()
        census = app.state.hub._census
        wait_for(lambda: all(tally.counted == 2 for tally in census._tallies.values()), "both to be counted")
        client.execute_command("CLIENT", "PAUSE", 300)  # long enough to be let in without an answer
        reader.subscribe(logs)
        reader.until(lambda said: said["type"] == "error")
        assert [(said["topic"], said["code"]) for said in reader.errors] == [(logs, "too_many_connections")]
        wait_for(lambda: app.state.hub.present == 2, "the topic to be left")
        reader.to_version(writer.start(0), [batch])
        assert Numbers(two)["refusals_total{owner}"] == 1


# -- strangers ----------------------------------------------------------------------------------------------------


def test_a_process_bears_only_so_many_who_have_not_said_who_they_are(settings: Settings, token: str) -> None:
    with stream_thread(replace(settings, viewers=20)) as (address, _), ExitStack() as stack:

        def come() -> RawSocket:
            return stack.enter_context(RawSocket(address))

        first, second = come(), come()
        assert [first.status, second.status, come().status] == [101, 101, 429]
        numbers = Numbers(address)
        assert numbers["refusals_total{unauthenticated}"] == 1
        with RawSocket(address, token) as known:
            assert known.status == 101
        first.say(type="auth", token=token)
        numbers.wait("connections{websocket}", 1)
        assert come().status == 101
        assert come().status == 429


def test_who_does_not_say_who_it_is_leaves_its_place_to_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "AUTH_SECONDS", 3.0)
    with stream_thread(replace(settings, viewers=10)) as (address, app), RawSocket(address) as silent:
        with RawSocket(address) as second:
            assert second.status == 429
        assert silent.hear()["code"] == "unauthenticated"
        assert silent.end() == 4401
        wait_for(lambda: not app.state.hub._strangers, "its place to be free")
        with RawSocket(address) as wrong:
            wrong.say(type="auth", token="wrong")  # noqa: S106  # it is none
            assert wrong.end() == 4401
        wait_for(lambda: not app.state.hub._strangers, "its place to be free")
        with RawSocket(address) as leaving:
            assert leaving.status == 101
        wait_for(lambda: not app.state.hub._strangers, "its place to be free")
        assert not app.state.hub._arriving


def test_who_has_not_said_who_it_is_counts_for_its_address(settings: Settings, writer: Writer, token: str) -> None:
    with stream_thread(replace(settings, address_viewers=1)) as (address, app):
        numbers = Numbers(address)
        with RawSocket(address) as socket:
            assert socket.status == 101
            with RawSocket(address) as second:
                assert second.status == 429
            with Stream(address, writer.batch_id, token) as stream:
                assert stream.next().data["code"] == "too_many_connections"
            assert numbers["refusals_total{address}"] == 2
            socket.say(type="auth", token=token)
            numbers.wait("viewers", 1)
            with RawSocket(address) as second:
                assert second.status == 429, "it has the same place still"
        wait_for(lambda: not app.state.hub.addresses._open, "the address to be forgotten")
        with RawSocket(address) as socket:
            assert socket.status == 101
        wait_for(lambda: not app.state.hub.addresses._open, "the address to be forgotten")
