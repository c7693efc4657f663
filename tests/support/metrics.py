"""What `/metrics` says, as numbers, and what docs/operations.md says of it."""

import re
from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.batches import wait_for
from tests.support.documents import OPERATIONS

Described = dict[str, set[str]]
"""Values of each label."""

OPEN = {"queue", "kind", "listener", "route"}
"""Labels whose values are what there is."""


class Numbers:
    """Of one service, a stream process unless said otherwise. A sample is named as `frames_total{gap}`: without what
    all begin with, labels by their values, in the order of their names.
    """

    def __init__(self, address: str, prefix: str = "headway_stream_") -> None:
        self._address = address
        self._prefix = prefix

    def read(self) -> dict[str, float]:
        """All of them."""
        reply = httpx.get(f"{self._address}/metrics", trust_env=False).raise_for_status()
        assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = {}
        for family in text_string_to_metric_families(reply.text):
            for sample in family.samples:
                labels = "{" + ",".join(sample.labels.values()) + "}" if sample.labels else ""
                found[sample.name.removeprefix(self._prefix) + labels] = sample.value
        return found

    def __getitem__(self, name: str) -> float:
        return self.read()[name]

    def wait(self, name: str, wanted: float | Callable[[float], bool]) -> None:
        """Until it is that, or so."""

        def fits() -> bool:
            value = self.read().get(name)
            return value is not None and (wanted(value) if callable(wanted) else value == wanted)

        wait_for(fits, f"{name} to be right")


def described() -> dict[str, tuple[str, Described]]:
    """Type and labels of each metric, as documented."""
    found = {}
    for name, kind, labels, *_ in OPERATIONS.rows("Metrics"):
        parts = [re.findall(r"`(\w+)`", part) for part in labels.split(";") if "`" in part]
        found[name.strip("`")] = kind, {label: set(values) for label, *values in parts}
    return found
