"""TLS to sentinels, to their master, and to the nodes of a cluster: spoken, and certificates are looked at."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from infra.embedded.ports import HOST
from shared.redis_clients import make_async_keyed, make_async_redis, make_redis
from tests.support.batches import wait_for
from tests.support.ports import own_port
from tests.support.several_redis import OF_SENTINELS, PASSWORD, SERVICE, RedisServer, Sentinel, quoted
from tests.support.tls import certificate

UNCHECKED = "ssl_cert_reqs=none&ssl_check_hostname=false"


@pytest.fixture
def tls(tmp_path: Path) -> tuple[str, ...]:
    """Lines of a configuration."""
    pem = tmp_path / "both.pem"
    pem.write_bytes(certificate())
    files = [f"tls-{kind}-file {pem}" for kind in ("cert", "key", "ca-cert")]
    return (*files, "tls-auth-clients no", "tls-replication yes")


@pytest.fixture
def by_sentinel(tls: tuple[str, ...], tmp_path: Path) -> Iterator[str]:
    ports = own_port(), own_port()
    server = RedisServer(tmp_path / "master", own_port(), *tls, f"tls-port {ports[0]}")
    sentinel = Sentinel(tmp_path / "sentinel", own_port(), ports[0], *tls, f"tls-port {ports[1]}", watcher="default")
    for one in (server, sentinel):
        one.start()
    yield f"rediss+sentinel://:{quoted(PASSWORD)}@{HOST}:{ports[1]}/{SERVICE}?sentinel_password={quoted(OF_SENTINELS)}"
    for one in (sentinel, server):
        one.stop()


@pytest.fixture
def in_cluster(tls: tuple[str, ...], tmp_path: Path) -> Iterator[str]:
    port = own_port()
    more = ("cluster-enabled yes", "tls-cluster yes", f"cluster-port {own_port()}", f"tls-port {port}")
    node = RedisServer(tmp_path / "node", own_port(), *tls, *more)
    node.start()
    with node.client() as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        wait_for(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "the cluster")
    yield f"rediss+cluster://:{quoted(PASSWORD)}@{HOST}:{port}?"
    node.stop()


@pytest.mark.parametrize("form", ["by_sentinel", "in_cluster"])
def test_certificates_are_looked_at_unless_told_otherwise(form: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(form)
    with make_redis(url) as checking, pytest.raises(redis.ConnectionError):
        checking.ping()
    unchecked = f"{url}&{UNCHECKED}".replace("?&", "?")
    with make_redis(unchecked) as client:
        assert client.ping()
        assert client.publish("nobody", "listens") == 0
    assert asyncio.run(_asked(unchecked)) == (True, [7])


async def _asked(url: str) -> tuple[bool, list[int]]:
    """What the clients of an event loop are answered."""
    client, keyed = make_async_redis(url, 1), make_async_keyed(url, 1)
    there = bool(await client.ping())
    pipeline = keyed.pipeline(transaction=False)
    pipeline.execute_command("EVAL", "return tonumber(ARGV[1])", 1, "a key", 7)
    answers = list(await pipeline.execute())
    await client.aclose()
    await keyed.aclose()
    return there, answers
