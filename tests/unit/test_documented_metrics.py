"""docs/operations.md against what `/metrics` shows, both ways: names, types, labels and every value of theirs."""

import re
from collections import defaultdict
from typing import Any

import pytest

from services.stream.exposition import Exposition
from services.stream.metrics import Metrics
from tests.support.documents import OPERATIONS

Described = dict[str, set[str]]
"""Values of each label."""


def shown() -> dict[str, tuple[str, Described]]:
    """Type and labels of each metric."""
    nothing: dict[str, Any] = defaultdict(lambda: lambda: 0)
    found = {}
    for metric in Exposition(Metrics(), nothing).collect():
        labels: Described = {}
        for sample in metric.samples:
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
        labels.pop("le", None)
        name = metric.name + ("_total" if metric.type == "counter" else "")
        found[name] = metric.type, labels
    return found


def described() -> dict[str, tuple[str, Described]]:
    found = {}
    for name, kind, labels, *_ in OPERATIONS.rows("Metrics"):
        parts = [re.findall(r"`(\w+)`", part) for part in labels.split(";") if "`" in part]
        found[name.strip("`")] = kind, {label: set(values) for label, *values in parts}
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
