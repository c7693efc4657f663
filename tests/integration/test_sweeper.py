"""The sweeper at work: leases of workers that are gone come to an end, and one process at a time sees to it."""

import time

import sqlalchemy as sa
from msgspec import structs

from services.worker import sweeper as sweeper_module
from services.worker.sweeper import Sweeper
from shared import models
from shared.channels import Publisher
from shared.kinds import KINDS
from shared.queue import make_broker
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.support.batches import batch_row
from tests.support.locks import held
from tests.support.writer import Writer

LEASE = 1.0


def test_one_process_sweeps_at_a_time(settings: Settings, engine: sa.Engine) -> None:
    settings = structs.replace(settings, lease=LEASE)
    writer = Writer(engine, settings)
    writer.start(0)
    writer.close()
    with engine.begin() as connection:
        connection.execute(sa.update(models.jobs).values(lease_until=sa.func.clock_timestamp()))
    broker = make_broker(settings.redis_url, settings.namespace, ("default",))
    with make_redis(settings.redis_url) as redis:
        sweeper = Sweeper(engine, broker, Publisher(redis, settings.namespace), settings, KINDS)
        lock = "SELECT pg_advisory_xact_lock(%(lock)s)"
        with held(settings.database_url, lock, lock=sweeper_module._LOCK):
            until = time.monotonic() + 2 * LEASE
            while time.monotonic() < until:
                sweeper.sweep()
                time.sleep(0.1)
            assert batch_row(engine, writer.batch_id).processing == 1, "it is the other's to end"
        sweeper.sweep()
    broker.close()
    assert batch_row(engine, writer.batch_id).processing == 0, "after all that time it needs no further look"
