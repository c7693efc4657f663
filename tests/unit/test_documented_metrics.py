"""docs/operations.md against what `/metrics` shows, both ways: names, types, labels and every value of theirs."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric

from infra.workers.crew import Crew
from infra.workers.exposition import Exposition as WorkersExposition
from services.api import exposition as api
from services.api.metrics import METHODS
from services.api.metrics import Metrics as ApiMetrics
from services.stream.exposition import Exposition
from services.stream.metrics import Metrics
from services.worker.metrics import Metrics as WorkerMetrics
from services.worker.metrics import OfListener
from services.worker.report import Report, State
from shared.settings import Settings
from tests.support.metrics import OPEN, Described, described


def of_stream() -> Iterator[Metric]:
    nothing: dict[str, Any] = defaultdict(lambda: lambda: 0)
    return iter(Exposition(Metrics(), nothing).collect())


def of_api() -> Iterator[Metric]:
    metrics = ApiMetrics()
    for method in [*METHODS, "other"]:
        for status in (200, 302, 404, 503, 0):
            metrics.answered("/api/batches", method, status, 0.1)
    metrics.created("rehearsal", 2, batches=1)
    yield from api.of_requests(metrics)
    yield from api.of_process(metrics, in_use=1, redis_up=True)
    yield from api.of_facts(None)
    yield from api.of_facts({("backlog", "one"): 1})


def of_workers() -> Iterator[Metric]:
    settings = Settings(database_url="postgresql:///", redis_url="redis:///", secret="x" * 32, ticket_key="y" * 32)
    crew = Crew(settings, ["default"], 1)
    metrics = WorkerMetrics(listeners={"one": OfListener()})
    metrics.of("rehearsal")
    crew.workers[0].reported(Report(State(), metrics, 1.0))
    yield from WorkersExposition(crew).collect()
    crew.close()


def shown() -> dict[str, tuple[str, Described]]:
    """Type and labels of each metric."""
    found: dict[str, tuple[str, Described]] = {}
    for metric in (*of_stream(), *of_api(), *of_workers()):
        labels: Described = {}
        for sample in metric.samples:
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
        labels.pop("le", None)
        name = metric.name + ("_total" if metric.type == "counter" else "")
        found[name] = metric.type, {label: set() if label in OPEN else values for label, values in labels.items()}
    return found


def test_every_metric_is_described_and_there_are_no_others() -> None:
    assert described().keys() == shown().keys()


@pytest.mark.parametrize("name", shown())
def test_its_type_and_labels_are_the_ones_in_use(name: str) -> None:
    assert described()[name] == shown()[name]


@pytest.mark.parametrize("name", shown())
def test_names_are_as_prometheus_wants_them(name: str) -> None:
    kind, _ = shown()[name]
    assert re.fullmatch(r"headway_[a-z]+(_[a-z]+)+", name)
    assert name.endswith("_total") == (kind == "counter")
    assert kind != "histogram" or name.endswith(("_seconds", "_bytes"))
