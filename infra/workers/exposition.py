"""How Prometheus sees the workers of this host or container. docs/operations.md describes every name."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from infra.workers.crew import Crew
from infra.workers.worker import Worker
from services.worker.metrics import ATTEMPT_BOUNDS, COMMIT_BOUNDS, WAIT_BOUNDS, Histogram, Metrics

_PREFIX = "headway_worker_"

_NOW = {
    "threads": ("threads", "Jobs that the processes run at once, at most."),
    "running": ("running", "Jobs that run."),
    "ahead": ("ahead", "Jobs that are started and wait for a thread."),
    "held_threads": ("held", "Threads whose handler did not end when asked."),
    "buffered_lines": ("buffered", "Log lines that wait to be committed."),
    "memory_bytes": ("memory", "What the processes have in memory."),
}
"""Sums over a queue's processes, by their field."""

_GROWN = {
    "changes": ("changes", "Starts and updates of jobs that were committed."),
    "lines": ("lines", "Log lines that were committed."),
    "lines_dropped": ("lines_dropped", "Log lines of jobs that had too many."),
    "tickets": ("tickets", "Work tickets taken."),
    "claim_seconds": ("claim_seconds", "Time that claims took."),
    "ledger_failures": ("failures", "Times that PostgreSQL did not take what the ledger wrote."),
    "expired_leases": ("expired", "Jobs whose worker was not heard of any more, found here."),
    "abandoned": ("abandoned", "Handlers that did not end when asked."),
}


class Exposition(Collector):
    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def collect(self) -> Iterator[Metric]:
        queues: dict[str, list[Worker]] = defaultdict(list)
        for worker in self._crew.workers:
            queues[worker.queue].append(worker)
        yield from _states(queues)
        totals = {}
        cpu = CounterMetricFamily(_PREFIX + "cpu_seconds", "Processor time of the processes.", labels=["queue"])
        for queue, workers in queues.items():
            totals[queue] = total = Metrics()
            seconds = 0.0
            for worker in workers:
                counted, used = worker.counted()
                total.add(counted)
                seconds += used
            cpu.add_metric([queue], seconds)
        yield cpu
        yield from _counted(totals)
        yield from _by_kind(totals)
        yield from _by_listener(totals)


def _states(queues: dict[str, list[Worker]]) -> Iterator[Metric]:
    processes = _gauge("processes", "Processes that are kept alive.")
    up = _gauge("processes_taking", "Those among them that take jobs and have reported lately.")
    restarts = _counter("restarts", "Times that a process was started again.")
    servers = {name: _gauge(f"{name}_up", "Whether all processes reach it.") for name in ("postgresql", "redis")}
    now = {field: _gauge(name, documentation) for name, (field, documentation) in _NOW.items()}
    for queue, workers in queues.items():
        processes.add_metric([queue], len(workers))
        up.add_metric([queue], sum(worker.fresh and worker.state.taking for worker in workers))
        restarts.add_metric([queue], sum(max(0, worker.starts - 1) for worker in workers))
        for server, family in servers.items():
            family.add_metric([queue], all(worker.fresh and getattr(worker.state, server) for worker in workers))
        for field, family in now.items():
            family.add_metric([queue], sum(getattr(worker.state, field) for worker in workers))
    yield from (processes, up, restarts, *servers.values(), *now.values())


def _counted(totals: dict[str, Metrics]) -> Iterator[Metric]:
    for name, (field, documentation) in _GROWN.items():
        family = _counter(name, documentation)
        for queue, total in totals.items():
            family.add_metric([queue], getattr(total, field))
        yield family
    claims = _counter("claims", "Times that jobs were asked for.", "outcome")
    waited = _histogram("waited_seconds", "From a job's creation, or the time it was put off to, to its start.")
    commits = _histogram("commit_seconds", "Commits, of one batch each.")
    for queue, total in totals.items():
        for outcome, number in total.claims.items():
            claims.add_metric([queue, outcome], number)
        _show(waited, [queue], WAIT_BOUNDS, total.waited)
        _show(commits, [queue], COMMIT_BOUNDS, total.commits)
    yield from (claims, waited, commits)


def _by_kind(totals: dict[str, Metrics]) -> Iterator[Metric]:
    started = _counter("attempts_started", "Attempts that began.", "kind")
    ended = _counter("attempts_ended", "Attempts that ended.", "kind", "outcome")
    seconds = _histogram("attempt_seconds", "How long handlers took.", "kind")
    for queue, total in totals.items():
        for kind, counted in total.kinds.items():
            started.add_metric([queue, kind], counted.started)
            for outcome, number in counted.ended.items():
                ended.add_metric([queue, kind, outcome], number)
            _show(seconds, [queue, kind], ATTEMPT_BOUNDS, counted.seconds)
    yield from (started, ended, seconds)


def _by_listener(totals: dict[str, Metrics]) -> Iterator[Metric]:
    told = _counter("listener_calls", "Transitions that listeners were told.", "listener", "outcome")
    for queue, total in totals.items():
        for name, counted in total.listeners.items():
            told.add_metric([queue, name, "told"], counted.told)
            told.add_metric([queue, name, "failed"], counted.failed)
    yield told


def _gauge(name: str, documentation: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, documentation, labels=["queue"])


def _counter(name: str, documentation: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(_PREFIX + name, documentation, labels=["queue", *labels])


def _histogram(name: str, documentation: str, *labels: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(_PREFIX + name, documentation, labels=["queue", *labels])


def _show(family: HistogramMetricFamily, labels: Sequence[str], bounds: tuple[float, ...], counted: Histogram) -> None:
    names = [*map(str, bounds), "+Inf"]
    family.add_metric(labels, list(zip(names, accumulate(counted.counts), strict=True)), sum_value=counted.total)


def make_registry(crew: Crew) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Exposition(crew))
    for standard in (ProcessCollector, PlatformCollector, GCCollector):
        standard(registry=registry)
    return registry
