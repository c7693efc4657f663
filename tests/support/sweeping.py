"""A sweeper of the test's own, whose rounds the test decides on."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from services.worker.sweeper import Sweeper
from shared.channels import Publisher
from shared.kinds import KINDS, QUEUES
from shared.queue import make_broker
from shared.redis_clients import make_redis
from shared.settings import Settings


@contextmanager
def sweeper_of(engine: sa.Engine, settings: Settings) -> Iterator[Sweeper]:
    broker = make_broker(settings.redis_url, settings.namespace, QUEUES)
    with make_redis(settings.redis_url) as redis:
        yield Sweeper(engine, broker, Publisher(redis, settings.namespace), settings, KINDS)
    broker.close()
