"""Redis with a replica and three sentinels: another master takes over while a batch runs and is watched."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from shared.channels import broker_namespace
from shared.lookout import Lookout, MovedError, lookout_for
from shared.redis_clients import make_redis
from shared.redis_urls import Several, read_redis_url
from shared.settings import Settings
from tests.support.batches import wait_for
from tests.support.metrics import Numbers
from tests.support.ordeal import PATIENCE, Ordeal, ordeal
from tests.support.several_redis import RedisServer, Watched, watched_redis
from tests.support.web import client as api_client
from tests.support.web import submit

pytestmark = pytest.mark.timeout(300)  # half a minute, but on a machine that is busy otherwise


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched_redis(tmp_path_factory.mktemp("sentinels")) as watched:
        yield watched


def test_without_its_sentinels_a_master_goes_on(watched: Watched) -> None:
    lookout = _lookout(watched)
    with make_redis(watched.url) as client:
        assert client.ping()
        address = lookout.address
        for sentinel in watched.sentinels:
            sentinel.kill()
        lookout.look()
        assert client.ping()
        assert lookout.address == address
        for sentinel in watched.sentinels:
            sentinel.start()


def test_who_meets_a_replica_goes_elsewhere(watched: Watched) -> None:
    lookout = _lookout(watched)
    replica = next(server for server in watched.servers if server is not watched.master)
    with make_redis(watched.url) as client:

        def moved() -> bool:
            lookout.address = "127.0.0.1", replica.port  # until it looks again, within a second
            try:
                client.set("a", 1)
            except MovedError:
                return True
            return False

        wait_for(moved, "a write to a replica")
        lookout.look()
        assert client.set("a", 1)


def test_a_batch_lives_through_failovers(settings: Settings, watched: Watched, tmp_path: Path) -> None:
    settings = structs.replace(settings, redis_url=watched.url)
    with ordeal(settings, tmp_path, own_redis=False, with_api=True) as batch:
        first = watched.master
        assert_at_work(batch, first)
        first.kill()
        batch.gets_on()  # by polling
        second = watched.await_failover(first)
        assert_at_work(batch, second)
        first.start()  # as a master, until the sentinels get to it: nobody goes there
        batch.gets_on()
        subscriptions = [Numbers(address)["subscriptions_total"] for address in batch.whole.addresses]
        with watched.cut_off(second):
            third = watched.await_failover(second)
            assert_at_work(batch, third)
            assert second.role() == "master"  # and answers, as ever
            assert not subscribed(second, settings)
        for address, before in zip(batch.whole.addresses, subscriptions, strict=True):
            assert Numbers(address)["subscriptions_total"] > before, "it moved without noticing"
        batch.verdict()


def assert_at_work(batch: Ordeal, master: RedisServer) -> None:
    """All services are with this master: changes are heard by way of it, and tickets are sent and fetched there."""
    whole = batch.whole
    for address in whole.addresses:
        numbers = Numbers(address)
        numbers.wait("redis_up", 1)
        before = numbers["frames_total{applied}"]
        numbers.wait("frames_total{applied}", lambda now, before=before: now > before + 2)
    with master.client() as client, api_client(whole.api_address, whole.settings) as api:
        wait_for(lambda: subscribed(master, whole.settings), "the streams to listen there", PATIENCE)
        scripts = lambda: client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]  # noqa: E731
        before = scripts()  # Dramatiq's, which a replica does not run
        submit(api)
        wait_for(lambda: scripts() > before, "tickets to be sent", PATIENCE)
        tickets = f"{broker_namespace(whole.settings.namespace)}:default"
        wait_for(lambda: not client.llen(tickets), "tickets to be fetched", PATIENCE)
    batch.gets_on()


def subscribed(server: RedisServer, settings: Settings) -> bool:
    """Whether anybody of ours is."""
    with server.client() as client:
        return bool(client.pubsub_channels(f"{settings.namespace}*"))


def _lookout(watched: Watched) -> Lookout:
    several = read_redis_url(watched.url)
    assert isinstance(several, Several)
    return lookout_for(several)
