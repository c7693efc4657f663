"""A WebSocket from its beginning to its end: pings, what ends it, how it counts, and that nothing is left of it."""

import asyncio
import gc
import json
import time
from typing import Any

from msgspec.structs import replace

from services.stream import session as sessions
from services.stream.app import create_app
from shared.auth import issue_token
from shared.settings import Settings
from shared.web.sockets import Socket
from tests.support.batches import OWNER, wait_for
from tests.support.streams import stream_thread
from tests.support.topics import topics
from tests.support.web import served, served_by
from tests.support.websockets import PING, PONG, RawSocket, Reader, frame
from tests.support.writer import Writer


def test_silence_is_broken_by_pings_of_both_kinds(settings: Settings, token: str) -> None:
    app = create_app(replace(settings, heartbeat=0.4))
    with served_by(app, ws_ping_interval=0.4, ws_ping_timeout=5) as (address, _), RawSocket(address, token) as socket:
        kinds: set[str] = set()
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
    with RawSocket(address, issue_token(settings, OWNER, ttl=4)) as socket:
        reader = Reader(socket)
        reader.subscribe(batch)
        said = reader.until(lambda said: said["type"] == "timeout")[-1]
        assert said == {"type": "timeout", "topic": None, "id": None, "data": {"reason": "token_expired"}}
        assert socket.end() == 4401


def test_a_connection_lives_only_so_long_also_by_ticket(settings: Settings, ticket: str) -> None:
    settings = replace(settings, lifetime=1.0)
    with served(create_app(settings)) as address, RawSocket(address, query={"ticket": ticket}) as socket:
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


def test_a_connection_and_its_topics_are_viewers_of_their_owner(settings: Settings, writer: Writer, token: str) -> None:
    with stream_thread(replace(settings, owner_viewers=4)) as (address, app):
        with RawSocket(address, token) as socket:
            reader = Reader(socket)
            reader.subscribe(*topics(writer))
            reader.catch_up()
            assert app.state.hub.present == 4
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


def test_nothing_is_left_of_connections_that_have_ended(settings: Settings, writer: Writer, token: str) -> None:
    settings = replace(settings, heartbeat=0.2)
    with stream_thread(settings) as (address, app):
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
        assert not hub.topics.keepers[writer.batch_id].topic.viewers

        def left() -> list[Any]:
            gc.collect()
            return [one for one in gc.get_objects() if isinstance(one, sessions.Session | Socket)]

        wait_for(lambda: not left(), "the connections to be forgotten")
