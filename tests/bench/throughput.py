"""Jobs a second whose handler does nothing, against a Dramatiq actor that does nothing."""

import time
from datetime import UTC, datetime

from redis import Redis

from shared.creation import TICKETS
from shared.queue import make_broker, send_tickets
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.bench.children import Child, workers
from tests.bench.results import ROUNDS, Number, Result, Verdict, ratios
from tests.bench.servers import Servers, engine
from tests.bench.worker import NOTHING, QUEUE, bare_actor, bare_broker, bare_namespace
from tests.support.batches import assert_consistent, make_batch, wait_finished

_JOBS = 4000
_PATIENCE = 60
"""Seconds for one round."""


def measure(servers: Servers) -> Result:
    numbers, verdicts = [], []
    for processes in (1, 2):
        ours: list[float] = []
        bare: list[float] = []
        for _ in range(ROUNDS):
            ours.append(_ours(servers.settings(), processes))
            bare.append(_bare(servers.settings(), processes))
        many = f"{processes} process{'es' if processes > 1 else ''} of 8 threads"
        numbers += [Number(f"bare Dramatiq, {many}", "/s", bare), Number(f"Headway, {many}", "/s", ours)]
        verdicts.append(Verdict(f"{many}, against Dramatiq", "times", ratios(ours, bare), 1.5, at_most=False))
    return Result("throughput: jobs a second that do nothing", numbers, verdicts)


def _ours(settings: Settings, processes: int) -> float:
    """One batch, created before: from the word to begin until it is finished, by PostgreSQL's clock."""
    with engine(settings) as database, workers("headway", settings, processes) as started:
        batch_id = make_batch(database, _JOBS, NOTHING)
        broker = make_broker(settings.redis_url, settings.namespace, (QUEUE,))
        send_tickets(broker, QUEUE, TICKETS)
        begun = _begin(started)
        row = wait_finished(database, batch_id, _PATIENCE)
        took: float = (row.finished_at - begun).total_seconds()
        assert_consistent(database, batch_id)
        broker.close()
    return _JOBS / took


def _bare(settings: Settings, processes: int) -> float:
    """As many messages, enqueued before: from the word to begin until the last is acknowledged."""
    broker = bare_broker(settings)
    with make_redis(settings.redis_url) as client, workers("dramatiq", settings, processes) as started:
        actor = bare_actor(broker)
        for _ in range(_JOBS):
            actor.send()
        begun = _begin(started)
        _await_acknowledged(client, f"{bare_namespace(settings)}:{QUEUE}.msgs")
        took = (datetime.now(UTC) - begun).total_seconds()
        broker.close()
    return _JOBS / took


def _begin(started: list[Child]) -> datetime:
    now = datetime.now(UTC)
    for one in started:
        one.say()
    return now


def _await_acknowledged(client: "Redis", name: str) -> None:
    until = time.monotonic() + _PATIENCE
    while client.hlen(name):
        assert time.monotonic() < until, "Dramatiq did not come to an end"
        time.sleep(0.005)
