"""TLS that ends in the server: what there is besides streams, which go every way in their own tests."""

import ssl
from contextlib import suppress

import pytest

from shared.settings import Settings
from tests.support.batches import wait_for
from tests.support.tls import connect
from tests.support.ways import WAYS
from tests.support.websockets import RawSocket, Reader
from tests.support.writer import Writer

TLS = WAYS[-1]


def test_a_websocket_sees_the_same(settings: Settings, writer: Writer, token: str) -> None:
    writer.start(0)
    topic = f"batch:{writer.batch_id}"
    with TLS.served(settings) as (address, _), RawSocket(address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(topic)
        reader.delta(topic)

        reader.to_version(writer.progress(0, 40))

        assert reader.records[topic].jobs == writer.state()["jobs"]


def test_what_is_not_http_is_told_so(settings: Settings) -> None:
    with TLS.served(settings) as (address, _), connect(address) as client:
        client.sendall(b"hello\r\n\r\n")
        answer = b""
        with suppress(ssl.SSLEOFError):
            while received := client.recv(4096):
                answer += received

    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b'"/problems/malformed"' in answer


@pytest.mark.parametrize("behind", [0, 1, 20])
def test_who_goes_after_having_asked_for_more_is_seen_to_go(
    settings: Settings, writer: Writer, token: str, behind: int
) -> None:
    more = f"GET /health/live HTTP/1.1\r\nHost: x\r\nX: {'x' * 20_000}\r\n\r\n".encode()
    with TLS.served(settings) as (address, app):
        client = connect(address)
        target = f"/api/batches/{writer.batch_id}/stream"
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        wait_for(lambda: app.state.hub.present, "the viewer")
        for _ in range(behind):
            client.sendall(more)
        client.close()
        wait_for(lambda: not app.state.hub.present, "the viewer to be gone")
