"""Redis emptied, cut off, killed, stopped and frozen while a batch runs and is watched: slower perhaps, never wrong."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from signal import SIGTERM
from threading import Event

import pytest
import redis
from msgspec import structs

from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import make_batch, wait_for
from tests.support.ordeal import PATIENCE, Ordeal, ordeal
from tests.support.sse import Stream

pytestmark = pytest.mark.timeout(300)  # half a minute, but on a machine that is busy otherwise

AWAY = 31.0
"""Seconds: longer than anybody's timeouts, counts and patience."""
LIMIT = 30
"""Viewers of one owner: more than the batch has."""
BERTA = "berta"


def test_redis_holds_nothing_that_anybody_needs(settings: Settings, tmp_path: Path) -> None:
    with ordeal(settings, tmp_path) as batch:
        valkey = batch.whole.valkey
        with redis.Redis.from_url(valkey.server.url) as client:
            for number in range(40):
                client.flushall()
                if number % 10 == 5:
                    client.client_kill_filter(_type="normal", skipme=True)  # what is published next nobody hears
                if number % 10 == 9:
                    client.client_kill_filter(_type="pubsub")
                    batch.gets_on()
                Event().wait(0.1)
        for ends in (valkey.kill, lambda: valkey.stop(SIGTERM)):
            ends()
            batch.gets_on()
            batch.gets_on()
            valkey.start()  # empty
            batch.gets_on()
        for seconds in (0.1, 0.5, 1, 4):  # the last until everybody has noticed
            valkey.freeze()
            Event().wait(seconds)
            batch.gets_on()
            valkey.thaw()
            batch.gets_on()
        batch.verdict()


def test_half_a_minute_without_redis(settings: Settings, tmp_path: Path) -> None:
    with ordeal(structs.replace(settings, owner_viewers=LIMIT), tmp_path) as batch:
        crowd = Crowd(batch)
        assert crowd.let_in() == LIMIT
        batch.whole.valkey.kill()
        gone = time.monotonic()
        while time.monotonic() - gone < AWAY:
            batch.gets_on()
            batch.audience.enter(f"came after {time.monotonic() - gone:.0f} s")
            wait_for(lambda: crowd.let_in() == 2 * LIMIT, "each process to keep to the limit for itself", PATIENCE)
            Event().wait(AWAY / 6)
        batch.whole.valkey.start()
        batch.gets_on()
        wait_for(lambda: crowd.let_in() == LIMIT, "both to keep to the limit together", PATIENCE)
        batch.verdict()


class Crowd:
    """Viewers of somebody else's, with a batch of their own, which lasts: more than there may be."""

    def __init__(self, batch: Ordeal) -> None:
        self._addresses = batch.whole.addresses
        self._batch_id = make_batch(batch.whole.engine, owner=BERTA, params={"steps": 100, "stepMs": 5000})
        self._token = issue_token(batch.whole.settings, BERTA)

    def let_in(self) -> int:
        """How many of them are in both processes together; then they go."""
        many = self._addresses * (LIMIT + 5)
        with ExitStack() as stack, ThreadPoolExecutor(len(many)) as pool:
            streams = list(pool.map(lambda address: Stream(address, self._batch_id, self._token), many))
            for stream in streams:
                stack.enter_context(closing(stream))
            return sum(pool.map(_stays, streams))


def _stays(stream: Stream) -> bool:
    """Who should not have been let in is sent away a moment later: before the first ping, after a second of silence."""
    while (event := stream.next(PATIENCE)).name not in {"error", "ping"}:
        pass
    if event.name == "ping":
        return True
    assert event.data["code"] == "too_many_connections"
    return False
