"""Redis emptied, cut off, killed, stopped and frozen while a batch runs and is watched: slower perhaps, never wrong."""

from pathlib import Path
from signal import SIGTERM
from threading import Event

import pytest
import redis

from shared.settings import Settings
from tests.support.ordeal import ordeal

pytestmark = pytest.mark.timeout(300)  # twenty seconds, but on a machine that is busy otherwise


def test_redis_holds_nothing_that_anybody_needs(settings: Settings, tmp_path: Path) -> None:
    with ordeal(settings, tmp_path) as batch:
        valkey = batch.whole.valkey
        with redis.Redis.from_url(valkey.server.url) as client:
            for _ in range(3):
                client.flushall()
                client.client_kill_filter(_type="normal", skipme=True)  # what is published next nobody hears
                batch.gets_on()
                client.client_kill_filter(_type="pubsub")
                Event().wait(1)
        for ends in (valkey.kill, lambda: valkey.stop(SIGTERM)):
            ends()
            batch.gets_on()
            batch.gets_on()
            valkey.start()  # empty
            batch.gets_on()
        valkey.freeze()
        Event().wait(4)  # until everybody has noticed
        batch.gets_on()
        valkey.thaw()
        batch.gets_on()
        batch.verdict()
