"""A process leaves with its viewers connected: all are told, and it is gone inside its grace period."""

import time

from msgspec import Struct
from sqlalchemy import Engine

from shared.settings import Settings
from tests.bench.delivery import JOBS
from tests.bench.results import ROUNDS, Number, Result, Verdict
from tests.bench.servers import Servers, engine
from tests.bench.stream.readers import readers
from tests.bench.stream.watched import many_viewers, stream_service
from tests.support.batches import make_batch

_VIEWERS = 5000


class _Drain(Struct):
    closed: float
    """Seconds until the last viewer was."""
    gone: float
    """Seconds until the process was."""
    told: int
    """Viewers who were, before they were closed."""


def measure(servers: Servers) -> Result:
    settings = many_viewers(servers.settings())
    with engine(settings) as database:
        drains = [_drain(servers, settings, database) for _ in range(ROUNDS)]
    return Result(
        f"drain: SIGTERM to a process with {_VIEWERS:,} viewers",
        [Number("until the last viewer was told and closed", "s", [drain.closed for drain in drains])],
        [
            Verdict("until the process was gone", "s", [drain.gone for drain in drains], settings.drain_grace),
            Verdict("viewers who were not told", "viewers", [_VIEWERS - drain.told for drain in drains], 0),
        ],
    )


def _drain(servers: Servers, settings: Settings, database: Engine) -> _Drain:
    batch_id = make_batch(database, JOBS)
    with stream_service(settings) as service, readers(servers.directory, service.port) as viewers:
        viewers.open(_VIEWERS, [service.request(batch_id)])
        viewers.expect_end()
        begin = time.monotonic()
        service.process.terminate()
        moment, told = viewers.ended()
        service.process.wait(2 * settings.drain_grace)
        return _Drain(moment - begin, time.monotonic() - begin, told)
