"""How long a small batch takes beside another owner's large one, against having half of the threads for itself."""

from uuid import UUID

from msgspec.structs import replace
from sqlalchemy import Engine

from shared.queue import make_broker, send_tickets
from shared.settings import Settings
from shared.tickets import TicketBroker
from tests.bench.children import workers
from tests.bench.results import ROUNDS, Number, Result, Verdict, ratios
from tests.bench.servers import Servers, engine
from tests.bench.worker import NOTHING, QUEUE
from tests.support.batches import batch_row, cancel, make_batch, wait_finished, wait_for

_MANY = 10_000
_FEW = 10
_SMALL = 5
"""Small batches of a round, one after the other."""


def measure(servers: Servers) -> Result:
    alone: list[float] = []
    beside: list[float] = []
    for _ in range(ROUNDS):
        settings = servers.settings()
        alone.append(_alone(replace(settings, threads=settings.threads // 2)))
        beside.append(_beside(servers.settings()))
    return Result(
        f"fairness: a batch of {_FEW} jobs that do nothing, from its creation to its end",
        [
            Number("alone, on half of the threads", "ms", alone),
            Number(f"on all of them, beside another owner's {_MANY:,} such jobs", "ms", beside),
        ],
        [Verdict("beside them, against alone on its share", "times", ratios(beside, alone), 2)],
    )


def _alone(settings: Settings) -> float:
    with engine(settings) as database, workers("headway", settings) as (worker,):
        worker.say()
        broker = make_broker(settings.redis_url, settings.namespace, (QUEUE,))
        _small(database, broker)  # the first also connects
        took = sum(_small(database, broker) for _ in range(_SMALL)) / _SMALL
        broker.close()
    return took


def _beside(settings: Settings) -> float:
    with engine(settings) as database, workers("headway", settings) as (worker,):
        worker.say()
        broker = make_broker(settings.redis_url, settings.namespace, (QUEUE,))
        crowd = make_batch(database, _MANY, NOTHING, owner="many")
        send_tickets(broker, QUEUE, 16)
        wait_for(lambda: _completed(database, crowd) > _MANY / 20, "the large batch to be under way")
        took = sum(_small(database, broker) for _ in range(_SMALL)) / _SMALL
        assert _completed(database, crowd) < _MANY, "the large batch ended before the small ones"
        cancel(database, crowd)
        broker.close()
    return took


def _completed(database: Engine, batch_id: UUID) -> int:
    return int(batch_row(database, batch_id).completed)


def _small(database: Engine, broker: TicketBroker) -> float:
    """Milliseconds, by PostgreSQL's clock."""
    batch_id = make_batch(database, _FEW, NOTHING, owner="few")
    send_tickets(broker, QUEUE, _FEW)
    row = wait_finished(database, batch_id)
    return float((row.finished_at - row.created_at).total_seconds() * 1000)
