"""A Redis Cluster for wake-ups, and another server for tickets: nodes are lost while a batch runs and is watched."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import pytest
import redis
from msgspec import structs

from shared.channels import viewers_key
from shared.lookout import NowhereError
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.support.batches import OWNER, wait_for
from tests.support.metrics import Numbers
from tests.support.ordeal import PATIENCE, Ordeal, ordeal
from tests.support.several_redis import Cluster, RedisServer, redis_cluster

pytestmark = pytest.mark.timeout(300)  # half a minute, but on a machine that is busy otherwise


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with redis_cluster(tmp_path / "cluster") as cluster:
        yield cluster


def test_a_batch_lives_through_the_loss_of_nodes(settings: Settings, cluster: Cluster, tmp_path: Path) -> None:
    settings = structs.replace(settings, redis_url=cluster.url, broker_url=settings.redis_url)
    with ordeal(settings, tmp_path, own_redis=False, with_api=True) as batch:
        first, second, third, replica = cluster.nodes
        assert_at_work(batch, cluster.nodes)
        first.kill()
        batch.gets_on()
        wait_for(lambda: replica.role() == "master", "the replica to take over", PATIENCE)
        cluster.await_whole()
        assert_at_work(batch, [second, third, replica])
        first.start()
        cluster.await_whole()
        for node in (second, third):
            node.signal(SIGSTOP)  # what is left is no majority, though it answers
        with make_redis(cluster.url) as client:
            wait_for(lambda: _nowhere(client), "nobody to be with a majority", PATIENCE)
        for _ in range(2):
            batch.gets_on()  # by polling
            for address in batch.whole.addresses:
                Numbers(address).wait("redis_up", 0)
        for node in (second, third):
            node.signal(SIGCONT)
        assert_at_work(batch, cluster.nodes)
        batch.verdict()


def assert_at_work(batch: Ordeal, nodes: Sequence[RedisServer]) -> None:
    """Changes are heard by way of one of these nodes, and viewers are counted there."""
    settings = batch.whole.settings
    for address in batch.whole.addresses:
        numbers = Numbers(address)
        numbers.wait("redis_up", 1)
        before = numbers["frames_total{applied}"]
        numbers.wait("frames_total{applied}", lambda now, before=before: now > before + 2)
    counted = viewers_key(settings.namespace, OWNER)
    wait_for(lambda: any(_holds(node, counted) for node in nodes), "viewers to be counted", PATIENCE)
    batch.gets_on()


def _nowhere(client: redis.Redis) -> bool:
    try:
        client.ping()
    except NowhereError:
        return True
    except redis.RedisError:  # where it was has just been frozen
        return False
    return False


def _holds(node: RedisServer, key: str) -> bool:
    with node.client() as client:
        return key in list(client.scan_iter())
