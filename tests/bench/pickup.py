"""How long a job that comes to an idle system waits for its handler to begin."""

import random
import time
from collections.abc import Iterator
from statistics import median

import msgspec
from dramatiq import Actor
from redis import Redis
from sqlalchemy import Engine

from shared.jobs import JobStatus
from shared.queue import make_broker, send_tickets
from shared.redis_clients import make_redis
from shared.tickets import TicketBroker
from tests.bench.children import workers
from tests.bench.results import ROUNDS, Number, Result, Verdict, percentile
from tests.bench.servers import Servers, engine
from tests.bench.worker import MOMENT, QUEUE, bare_broker, bare_stamp
from tests.support.batches import job_rows, make_batch, wait_finished

_SAMPLES = 40
"""Jobs of one round."""

_BARE_SAMPLES = 8
_PAUSE = (0.05, 0.15)
"""Seconds between two jobs, drawn anew each time so that no period of the worker's is met again and again."""


def measure(servers: Servers) -> Result:
    settings = servers.settings()
    pauses = random.Random(1)  # noqa: S311  # nothing is kept secret with these
    ours: list[list[float]] = []
    bare: list[list[float]] = []
    with (
        engine(settings) as database,
        make_redis(settings.redis_url) as client,
        workers("headway", settings) as mine,
        workers("dramatiq", settings) as others,
    ):
        for one in mine + others:
            one.say()
        tickets = make_broker(settings.redis_url, settings.namespace, (QUEUE,))
        broker = bare_broker(settings)
        actor = bare_stamp(broker)
        _ours(database, tickets)  # the first of each also connects
        _bare(client, actor)
        for _ in range(ROUNDS):
            ours.append([_ours(database, tickets) for _ in _at_intervals(pauses, _SAMPLES)])
            bare.append([_bare(client, actor) for _ in _at_intervals(pauses, _BARE_SAMPLES)])
        broker.close()
        tickets.close()
    every = [wait for waits in ours for wait in waits]
    return Result(
        "pickup: from the commit of a single job to the start of its handler, on an idle system",
        [
            Number("bare Dramatiq as it comes, from before `send`, middle", "ms", [median(waits) for waits in bare]),
            Number("Headway, middle", "ms", [median(waits) for waits in ours]),
            Number(f"Headway, 99th of a hundred, all {len(every)} together", "ms", [percentile(every, 99)]),
            Number(f"Headway, longest of all {len(every)}", "ms", [max(every)]),
        ],
        [Verdict("Headway, 99th of a hundred", "ms", [percentile(every, 99)], 100)],
    )


def _at_intervals(pauses: random.Random, samples: int) -> Iterator[None]:
    for _ in range(samples):
        time.sleep(pauses.uniform(*_PAUSE))
        yield


def _ours(database: Engine, tickets: TicketBroker) -> float:
    """Milliseconds."""
    batch_id = make_batch(database, 1, MOMENT)
    committed = time.monotonic()
    send_tickets(tickets, QUEUE, 1)
    wait_finished(database, batch_id)
    (job,) = job_rows(database, batch_id)
    assert job.status == JobStatus.COMPLETED
    return (float(job.result) - committed) * 1000


def _bare(client: "Redis", actor: "Actor[[str], None]") -> float:
    """Milliseconds."""
    name = "bench:moment"
    sent = time.monotonic()
    actor.send(name)
    begun = client.blpop([name], timeout=20)
    assert begun, "Dramatiq did not begin"
    return (float(msgspec.json.decode(begun[1])) - sent) * 1000
