"""A store of files that stands still holds up nobody who needs none."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from msgspec import structs

from services.api.app import create_app
from services.api.resources import THREADS
from shared.settings import Bucket, Settings
from tests.support.batches import wait_for
from tests.support.s3_server import KEYS
from tests.support.web import client, served, submit

ENOUGH = 16
"""Uploads that wait for the store."""


class StandingStill:
    """Takes connections and says nothing."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.listener.settimeout(0)
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self._taken: list[socket.socket] = []

    def taken(self) -> int:
        with suppress(OSError):  # no more of them, or it is closed
            while True:
                self._taken.append(self.listener.accept()[0])
        return len(self._taken)

    def close(self) -> None:
        self.taken()
        for connection in [self.listener, *self._taken]:
            connection.close()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandingStill]:
    store = StandingStill()
    for name, value in {"AWS_ENDPOINT_URL_S3": store.address, "AWS_DEFAULT_REGION": "us-east-1", **KEYS}.items():
        monkeypatch.setenv(name, value)
    yield store
    store.close()


def test_requests_that_need_no_file_are_answered(settings: Settings, store: StandingStill) -> None:
    settings = structs.replace(settings, uploads=Bucket("files"))
    many = THREADS + 8
    with (
        served(create_app(settings)) as address,
        client(address, settings) as anna,
        ThreadPoolExecutor(many) as threads,
    ):
        uploads = [threads.submit(anna.post, "/api/uploads", files={"file": b"x"}, timeout=60) for _ in range(many)]
        wait_for(lambda: store.taken() >= ENOUGH, "uploads to wait for the store")
        submit(anna)
        assert anna.get("/health/ready").json()["postgresql"] == "ok"
        assert not [upload for upload in uploads if upload.done()]
        store.close()
        assert {upload.result().status_code for upload in uploads} == {503}
