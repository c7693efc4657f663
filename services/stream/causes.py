"""Where the deliveries of a topic belong: what they come from, and a span for each round of them."""

import time
from uuid import UUID

from msgspec import Struct

from shared import tracing
from shared.trace import Trace, known_trace

_MOST = 8
"""Of what leaves together so many are linked: it may be what hundreds of jobs said."""


class Causes:
    """Of what a topic's viewers are told next, as frames name them. None while tracing is off."""

    __slots__ = ("_traces",)

    def __init__(self) -> None:
        self._traces: list[Trace] = []

    def hear(self, traceparent: str) -> None:
        """One that nobody records counts for nothing: a delivery is recorded if what it comes from is."""
        if tracing.recorder() is None or len(self._traces) >= _MOST:
            return
        trace = known_trace(traceparent)
        if trace is not None and trace.sampled and trace not in self._traces:
            self._traces.append(trace)

    def begin(self, batch_id: UUID, version: int) -> "DeliverySpan | None":
        """The span of a round, which is nobody's if nothing caused it; the next one has other causes."""
        if not self._traces:
            return None
        recorder, (first, *others) = tracing.recorder(), self._traces
        self._traces = []
        if recorder is None:
            return None
        attributes: dict[str, str | int] = {"headway.batch_id": str(batch_id), "headway.version": version}
        return DeliverySpan(recorder.begin("deliver", first, tuple(others), attributes))


class DeliverySpan(Struct):
    """One for a round, however many people are told: their number is in it."""

    recorded: tracing.Recorded
    told: int = 0
    """By the round itself."""
    woken: int = 0
    """In turns of their own, which come after it."""
    bytes: int = 0

    def end(self, committed: int) -> None:
        """`committed`: as in Delivery."""
        said: dict[str, int] = {
            "headway.readers": self.told + self.woken,
            "headway.readers_woken": self.woken,
            "headway.bytes": self.bytes,
        }
        if committed:
            said["headway.lag_ms"] = max(0, time.time_ns() // 1_000_000 - committed)
        self.recorded.end(said)
