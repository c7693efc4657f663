"""How Prometheus sees what this process counted, and what it reads in PostgreSQL. docs/operations.md describes it."""

from collections.abc import Iterator, Mapping
from itertools import accumulate

import sqlalchemy as sa
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.api.facts import Facts, Found
from services.api.metrics import BOUNDS, Metrics
from services.api.resources import CONNECTIONS, Resources
from shared.kinds import QUEUES

_PREFIX = "headway_api_"

_OF_QUEUES = {
    "runnable": ("runnable", "Jobs that could be started now, but for the limits of owners and kinds."),
    "running": ("running", "Jobs that run."),
    "waiting": ("waiting_seconds", "For how long nothing has happened in the batch that waits longest."),
}

_STATUSES = ("working", "draining", "lost")


class Exposition(Collector):
    def __init__(self, resources: Resources, facts: Facts) -> None:
        self._resources = resources
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        found = self._facts.now()
        pool = self._resources.engine.pool
        in_use = pool.checkedout() if isinstance(pool, sa.QueuePool) else 0
        yield from of_requests(self._resources.metrics)
        yield from of_process(self._resources.metrics, in_use=in_use, redis_up=self._facts.redis_up)
        yield from of_facts(found)


def of_requests(metrics: Metrics) -> Iterator[Metric]:
    answered = CounterMetricFamily(
        _PREFIX + "requests", "Requests, by how they ended.", labels=["route", "method", "status"]
    )
    seconds = HistogramMetricFamily(
        _PREFIX + "request_seconds", "From a request's head to the end of its reply.", labels=["route", "method"]
    )
    names = [*map(str, BOUNDS), "+Inf"]
    for (route, method), requests in list(metrics.requests.items()):
        for status, number in dict(requests.by_status).items():
            answered.add_metric([route, method, status], number)
        buckets = list(zip(names, accumulate(requests.counts), strict=True))
        seconds.add_metric([route, method], buckets, sum_value=requests.seconds)
    yield answered
    yield seconds


def of_process(metrics: Metrics, *, in_use: int, redis_up: bool) -> Iterator[Metric]:
    """`in_use`: of its connections."""
    yield _gauge("in_flight", "Requests that are being answered.", metrics.in_flight)
    yield _by("problems", "Requests that were refused.", "code", metrics.problems)
    yield _by("batches_created", "Batches created.", "kind", metrics.batches)
    yield _by("jobs_created", "Jobs created.", "kind", metrics.jobs)
    yield CounterMetricFamily(_PREFIX + "uploads", "Files uploaded.", value=metrics.uploads)
    yield CounterMetricFamily(_PREFIX + "upload_bytes", "Bytes of files uploaded.", value=metrics.upload_bytes)
    yield _gauge("connections_in_use", "Of its connections to PostgreSQL.", in_use)
    yield _gauge("connections_limit", "So many there are at most.", CONNECTIONS)
    yield _gauge("redis_up", "Whether Redis answered at the last look.", redis_up)


def of_facts(found: Found | None) -> Iterator[Metric]:
    yield _gauge("postgresql_up", "Whether the last look at PostgreSQL was answered.", found is not None)
    if found is None:
        return
    for fact, (name, documentation) in _OF_QUEUES.items():
        family = GaugeMetricFamily(f"headway_jobs_{name}", documentation, labels=["queue"])
        for queue in QUEUES:
            family.add_metric([queue], found.get((fact, queue), 0))
        yield family
    workers = GaugeMetricFamily("headway_jobs_workers", "Worker processes.", labels=["queue", "status"])
    for queue in QUEUES:
        for status in _STATUSES:
            workers.add_metric([queue, status], found.get((status, queue), 0))
    yield workers
    backlog = GaugeMetricFamily(
        "headway_jobs_listener_backlog", "Batches with news that listeners are still to be told.", labels=["listener"]
    )
    for (fact, listener), number in found.items():
        if fact == "backlog":
            backlog.add_metric([listener], number)
    yield backlog


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, documentation, value=value)


def _by(name: str, documentation: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, documentation, labels=[label])
    for value, number in dict(values).items():
        family.add_metric([value], number)
    return family
