"""What the handlers of one api process share."""

import redis
import sqlalchemy as sa
from litestar.di import NamedDependency
from litestar.params import SkipValidation
from msgspec import Struct
from sqlalchemy import Engine

from shared.channels import Publisher, make_redis
from shared.database import make_engine
from shared.kinds import QUEUES
from shared.outage import Outage
from shared.outlook import Premises, premises_of
from shared.queue import TicketBroker, make_broker
from shared.settings import Settings

THREADS = 32
"""Requests that are worked on at once. Most wait for PostgreSQL or the disk."""

CONNECTIONS = 10
"""To PostgreSQL; more do not make two cores of it quicker. A request that gets none in time is answered 503."""


PATIENCE = 10.0
"""Seconds for one statement. The longest, a large creation's or cancellation's, take one."""

DELETION = 600.0
"""Seconds for each of a deletion's: a batch may have millions of log lines."""


class Resources(Struct, frozen=True):
    settings: Settings
    engine: Engine
    postgresql: Outage
    redis: "redis.Redis"
    broker: TicketBroker
    publisher: Publisher
    premises: Premises

    def close(self) -> None:
        self.engine.dispose()
        self.broker.close()
        self.redis.close()


Shared = NamedDependency[SkipValidation[Resources]]
"""For a handler's parameter `resources`."""


def make_resources(settings: Settings) -> Resources:
    """Connects to nothing yet: the servers may come later than this process."""
    client = make_redis(settings.redis_url)
    engine = make_engine(settings.database_url, pool_size=CONNECTIONS, application="headway api", patience=PATIENCE)
    postgresql = Outage("postgresql", "requests")
    # it has just been made, or has answered
    sa.event.listen(engine, "checkout", lambda *_: postgresql.end())
    return Resources(
        settings,
        engine,
        postgresql,
        client,
        make_broker(settings.redis_url, settings.namespace, QUEUES),
        Publisher(client, settings.namespace),
        premises_of(settings),
    )
