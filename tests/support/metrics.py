"""What `/metrics` says, as numbers."""

from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.batches import wait_for

_PREFIX = "headway_stream_"


class Numbers:
    """Of one stream process. A sample is named as `frames_total{gap}`: without what all begin with, labels by their
    values, in the order of their names.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def read(self) -> dict[str, float]:
        """All of them."""
        reply = httpx.get(f"{self._address}/metrics", trust_env=False).raise_for_status()
        assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = {}
        for family in text_string_to_metric_families(reply.text):
            for sample in family.samples:
                labels = "{" + ",".join(sample.labels.values()) + "}" if sample.labels else ""
                found[sample.name.removeprefix(_PREFIX) + labels] = sample.value
        return found

    def __getitem__(self, name: str) -> float:
        return self.read()[name]

    def wait(self, name: str, wanted: float | Callable[[float], bool]) -> None:
        """Until it is that, or so."""

        def fits() -> bool:
            value = self[name]
            return wanted(value) if callable(wanted) else value == wanted

        wait_for(fits, f"{name} to be right")
