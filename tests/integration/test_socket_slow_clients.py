"""Clients of a WebSocket that do not read."""

from typing import Any

from msgspec.structs import replace

from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER, wait_for
from tests.support.streams import SEND_BUFFER, stream_thread
from tests.support.topics import known, topics, truth
from tests.support.websockets import PING, PONG, RawSocket, Reader, frame
from tests.support.writer import Writer


def test_a_client_that_does_not_read_gets_one_merged_delta(settings: Settings, writer: Writer, token: str) -> None:
    writer.start(0, 1)
    with (
        stream_thread(replace(settings, window=0), send_buffer=SEND_BUFFER) as (address, app),
        RawSocket(address, token, receive_buffer=4096) as slow,
        RawSocket(address, token) as quick,
    ):
        readers = [Reader(slow), Reader(quick)]
        for reader in readers:
            reader.subscribe(*topics(writer))
            reader.catch_up()
        for percent in range(1, 90):
            writer.progress(0, percent, lines=8, text="x" * 1000)
            version = writer.progress(1, percent)
        readers[1].to_version(version, topics(writer)[:1])
        guests = list(app.state.hub._guests)
        kept = [one._outlet.transport.get_write_buffer_size() for one in guests]
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
    with (
        stream_thread(settings, send_buffer=SEND_BUFFER) as (address, app),
        RawSocket(address, token, receive_buffer=4096) as socket,
    ):
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
    with (
        stream_thread(replace(settings, heartbeat=0.2), send_buffer=SEND_BUFFER) as (address, app),
        RawSocket(address, issue_token(settings, OWNER, ttl=4), receive_buffer=4096) as socket,
    ):
        socket.say(type="subscribe", topic=f"logs:{writer.batch_id}")
        wait_for(lambda: app.state.hub.present == 2, "the subscription")
        wait_for(lambda: not app.state.hub.present, "the connection to be given up")
