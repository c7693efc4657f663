"""How Prometheus sees what this process counted. docs/operations.md describes every name."""

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.stream.metrics import LAG_BOUNDS, Metrics

Gauges = Mapping[str, Callable[[], float]]
"""What is so at the moment: names without what all begin with, and who knows."""

_PREFIX = "headway_stream_"

_NOW = {
    "viewers": "Viewers at present: streams, held requests, WebSockets and their topics.",
    "viewers_limit": "Viewers that this process takes.",
    "topics": "Batches that are watched.",
    "buffered_bytes": "Held by long deliveries on their way.",
    "redis_up": "Whether the subscription to Redis is alive.",
}


class Exposition(Collector):
    def __init__(self, metrics: Metrics, gauges: Gauges) -> None:
        self._metrics = metrics
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        metrics = self._metrics
        for name, documentation in _NOW.items():
            yield GaugeMetricFamily(_PREFIX + name, documentation, value=self._gauges[name]())
        yield from self._connections()
        yield _by("refusals", "Connections refused.", "reason", metrics.refusals)
        yield _by("resumes", "Readers that went on from an event id.", "source", metrics.resumes)
        yield _by("resets", "Readers told to forget what they have.", "reason", metrics.resets)
        yield _by("frames", "Frames received from Redis.", "outcome", metrics.frames)
        yield _count(
            "subscriptions", "Subscriptions to Redis that came about, the first included.", metrics.subscriptions
        )
        yield _by("comparisons", "Comparisons of all topics with PostgreSQL.", "reason", metrics.looks)
        yield _by("readings", "Questions to PostgreSQL.", "outcome", metrics.readings)
        yield _count("deliveries", "Deltas and snapshots, for each reader.", metrics.deliveries)
        yield _count("merges", "Deliveries of more than one delta to readers that were behind.", metrics.merges)
        yield _count("written_bytes", "Bytes of events and messages written.", metrics.bytes)
        yield self._lag()
        yield _count(
            "stalls", "Times that the event loop was late by more than 20 ms, for what was due.", metrics.stalls
        )
        longest = metrics.longest_stall
        yield GaugeMetricFamily(_PREFIX + "longest_stall_seconds", "The longest since the start.", value=longest)

    def _connections(self) -> Iterator[Metric]:
        metrics = self._metrics
        open_ = GaugeMetricFamily(_PREFIX + "connections", "Connections at present.", labels=["transport"])
        closed = CounterMetricFamily(
            _PREFIX + "connections_closed", "Connections that ended.", labels=["transport", "reason"]
        )
        for transport, reasons in metrics.closed.items():
            # in this order: one that ends meanwhile does not make it less than none
            ended = dict(reasons)
            open_.add_metric([transport], max(0, metrics.opened[transport] - sum(ended.values())))
            for reason, number in ended.items():
                closed.add_metric([transport, reason], number)
        yield open_
        yield _by("connections_opened", "Connections that began.", "transport", metrics.opened)
        yield closed

    def _lag(self) -> Metric:
        counts = list(accumulate(self._metrics.lag_counts))
        bounds = [*map(str, LAG_BOUNDS), "+Inf"]
        return HistogramMetricFamily(
            _PREFIX + "lag_seconds",
            "From a commit to its being written, for each reader that was waiting for it.",
            buckets=list(zip(bounds, counts, strict=True)),
            sum_value=self._metrics.lag_sum,
        )


def _count(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(_PREFIX + name, documentation, value=value)


def _by(name: str, documentation: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, documentation, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
