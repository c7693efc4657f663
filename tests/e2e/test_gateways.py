"""A whole installation behind the real gateways: `headway smoke` through them, and parts of it killed under way."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER, transition_rows, wait_for
from tests.support.gateways import Gateway, caddy, nginx
from tests.support.installation import Installation, installed
from tests.support.running import headway
from tests.support.smoking import await_holder, await_smoke, await_worker, deliveries, outcome, smoking
from tests.support.sse import Record, Stream
from tests.support.tls import client_context
from tests.support.web import decoded, rehearsal

Started = Callable[..., AbstractContextManager[Gateway]]


@pytest.fixture
def whole(settings: Settings, tmp_path: Path) -> Iterator[Installation]:
    with installed(replace(settings, proxies="127.0.0.1"), tmp_path, with_api=True) as whole:
        yield whole


def test_smoke_passes_through_each_of_them(whole: Installation, tmp_path: Path) -> None:
    token = issue_token(whole.settings, OWNER)
    starts: dict[str, Started] = {"nginx": nginx, "caddy": caddy}
    for name, start in starts.items():
        with start(whole.api_address, whole.addresses[0], tmp_path / name) as gateway:
            variables = {"SSL_CERT_FILE": str(gateway.trust)}
            done = headway(tmp_path / "nowhere", "smoke", gateway.address, "--token", token, seconds=90, **variables)

            assert done.returncode == 0, done.stdout + done.stderr
            assert token not in gateway.written


def test_nothing_is_lost_when_a_replica_and_a_worker_are_killed_under_way(whole: Installation, tmp_path: Path) -> None:
    token = issue_token(whole.settings, OWNER)
    with two_replicas(whole, tmp_path) as gateway:
        batch = _submit(gateway, token)
        readers = [Follower(gateway, batch, token) for _ in range(6)]
        for reader in readers:
            reader.start()
        wait_for(lambda: all(reader.record.version > 10 for reader in readers), "all to be under way", 60)
        whole.streams[0].kill()
        whole.workers[0].kill()
        for reader in readers:
            reader.join(120)
        ended = _read(gateway, batch, token)
    assert ended["status"] == "COMPLETED"
    for reader in readers:
        assert reader.trouble is None
        assert reader.record.batch["status"] == "COMPLETED"
        assert len(reader.record.jobs) == ended["counts"]["total"]
        assert reader.record.version == ended["version"]
    assert sum(reader.connections for reader in readers) > len(readers), "nobody was cut off"
    assert len({frozenset(reader.record.lines) for reader in readers}) == 1


def test_smoke_passes_while_the_stream_and_the_worker_that_it_hangs_on_are_killed(
    whole: Installation, tmp_path: Path
) -> None:
    token = issue_token(whole.settings, OWNER)
    with (
        two_replicas(whole, tmp_path) as gateway,
        smoking(gateway.address, token, gateway.trust, "--disturbed", "--patience", "90") as smoke,
    ):
        batch_id = await_smoke(whole.engine, percent=50)
        holder = await_holder(deliveries(whole.addresses))
        whole.streams[whole.addresses.index(holder)].kill()
        _, pid = await_worker(whole.engine, batch_id)
        (worker,) = (worker for worker in whole.workers if pid in worker.pids())
        worker.kill()
        status, said = outcome(smoke)
    assert status == 0, said
    assert "checks passed" in said
    assert "tried again: 0." not in said
    assert [step for step in transition_rows(whole.engine, batch_id) if step.reason == "lease_expired"]


def test_smoke_fails_on_that_where_nobody_said_that_it_would_be(whole: Installation, tmp_path: Path) -> None:
    token = issue_token(whole.settings, OWNER)
    for worker in whole.workers:
        worker.freeze()  # the batch is a short one
    before = deliveries(whole.addresses)
    with two_replicas(whole, tmp_path) as gateway, smoking(gateway.address, token, gateway.trust) as smoke:
        first = await_holder(before)
        whole.streams[whole.addresses.index(first)].kill()
        # its first connection it may lose: it comes back once, to see that one can
        (second,) = {*whole.addresses} - {first}
        await_holder({second: -1})
        whole.streams[whole.addresses.index(second)].kill()
        for service in whole.streams:
            service.start()
        for worker in whole.workers:
            worker.thaw()
        status, said = outcome(smoke)
    assert status == 1, said
    assert "FAILED: a connection that was cut is taken up by its last id" in said


@contextmanager
def two_replicas(whole: Installation, tmp_path: Path) -> Iterator[Gateway]:
    """In front of both stream services is nginx."""
    one, other = (address.removeprefix("http://") for address in whole.addresses)

    def both(text: str) -> str:
        upstream = f"upstream replicas {{ server {one} fail_timeout=1s; server {other} fail_timeout=1s; }}\n"
        return upstream + text.replace(whole.addresses[0], "http://replicas")

    changes = {"conf.d/headway.conf": both}
    with nginx(whole.api_address, whole.addresses[0], tmp_path / "state", changes=changes) as gateway:
        yield gateway


class Follower(Thread):
    """As an EventSource does: whenever its connection ends it comes back with the last id."""

    def __init__(self, gateway: Gateway, batch_id: str, token: str) -> None:
        super().__init__()
        self.record = Record()
        self.connections = 0
        self.trouble: BaseException | None = None
        self._gateway, self._batch_id, self._token = gateway, batch_id, token

    def run(self) -> None:
        try:
            while not self._follow():
                pass
        except BaseException as error:  # noqa: BLE001  # for the test to see
            self.trouble = error

    def _follow(self) -> bool:
        """Whether that was the end."""
        self.connections += 1
        assert self.connections < 200, "it comes back and back"
        record = self.record
        headers = {"Connection": "close"}
        with (
            suppress(OSError),
            Stream(self._gateway.address, self._batch_id, self._token, record=record, headers=headers) as stream,
        ):
            assert stream.status == HTTPStatus.OK
            while not stream.ended:
                for event in stream.chunk(30):
                    record.take(event)
                    if event.name == "complete":
                        return True
        return False


def _submit(gateway: Gateway, token: str) -> str:
    params = {"steps": 20, "stepMs": 100, "logsPerStep": 1}
    with _client(gateway, token) as client:
        reply = client.post("/api/batches", json=rehearsal(16, params))
        assert reply.status_code == HTTPStatus.CREATED, reply.text
        return str(decoded(reply)["batchId"])


def _read(gateway: Gateway, batch_id: str, token: str) -> dict[str, Any]:
    with _client(gateway, token) as client:
        return decoded(client.get(f"/api/batches/{batch_id}"))


def _client(gateway: Gateway, token: str) -> httpx.Client:
    return httpx.Client(
        base_url=gateway.address,
        headers={"Authorization": f"Bearer {token}"},
        verify=client_context(),
        timeout=30,
        trust_env=False,
    )
