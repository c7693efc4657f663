"""What the handlers of one api process share."""

import redis
import sqlalchemy as sa
from litestar.di import NamedDependency
from litestar.params import SkipValidation
from msgspec import Struct
from sqlalchemy import Engine

from services.api.filing import Filing
from services.api.metrics import Metrics
from shared.channels import Publisher
from shared.creation import TICKETS
from shared.database import make_engine
from shared.files import Files, make_files
from shared.kinds import QUEUES
from shared.outage import Outage
from shared.outlook import Premises, premises_of
from shared.queue import make_broker, send_tickets
from shared.redis_clients import make_redis
from shared.settings import Settings
from shared.tickets import TicketBroker

THREADS = 32
"""Requests that are worked on at once. Most wait for PostgreSQL; files have threads of their own."""

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
    files: Files
    filing: Filing
    metrics: Metrics

    def call_workers(self, queue: str, jobs: int) -> None:
        """After the commit, when so many jobs of the queue may run."""
        own_broker = self.settings.tickets_url != self.settings.redis_url
        if own_broker or not self.publisher.away:  # the same server is not waited for twice
            send_tickets(self.broker, queue, min(jobs, TICKETS))

    def close(self) -> None:
        self.engine.dispose()
        self.broker.close()
        self.redis.close()
        self.filing.close()


Shared = NamedDependency[SkipValidation[Resources]]
"""For a handler's parameter `resources`."""


def make_resources(settings: Settings) -> Resources:
    """Connects to nothing yet: the servers may come later than this process."""
    client = make_redis(settings.redis_url)
    engine = make_engine(
        settings.database_url,
        pool_size=CONNECTIONS,
        application="headway api",
        patience=PATIENCE,
        pooler=settings.pooler,
    )
    postgresql = Outage("postgresql", "requests")
    # it has just been made, or has answered
    sa.event.listen(engine, "checkout", lambda *_: postgresql.end())
    return Resources(
        settings,
        engine,
        postgresql,
        client,
        make_broker(settings.tickets_url, settings.namespace, QUEUES),
        Publisher(client, settings.namespace),
        premises_of(settings),
        make_files(settings),
        Filing(),
        Metrics(),
    )
