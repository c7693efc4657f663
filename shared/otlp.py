"""Spans that are recorded, and sent by OpenTelemetry to a collector (OTLP over HTTP).

Only `tracing` imports this, once tracing is asked for: the packages are the dependency group `tracing`.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping
from contextvars import Token
from threading import Thread
from typing import Self

import structlog
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from shared.trace import CURRENT, Trace
from shared.tracing import Attributes, Kind

_EXPORT = 2.0
"""Seconds that a collector has to take some spans, unless OTEL_EXPORTER_OTLP_TIMEOUT says otherwise."""

_TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")

_FLUSH = 2.0
"""Seconds that the process's end waits for what has not been sent."""

_QUIET = 60.0
"""Seconds between two lines of log about a collector that is away."""

_KINDS = {"server": SpanKind.SERVER, "consumer": SpanKind.CONSUMER, "producer": SpanKind.PRODUCER}

log = structlog.get_logger(__name__)


class Otlp:
    """A Recorder. Spans are also what instrumented libraries begin in a request or in a handler."""

    def __init__(self, service: str, environment: Mapping[str, str]) -> None:
        _quieten()
        timeout = None if any(environment.get(name) for name in _TIMEOUTS) else _EXPORT
        # its own end at exit would wait for half a minute: `stop` does not
        self._provider = TracerProvider(resource=_resource(service, environment), shutdown_on_exit=False)
        # the queue is bounded and never waited for: what does not fit is left out
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout)))
        trace.set_tracer_provider(self._provider)
        self._tracer = self._provider.get_tracer("headway")

    def span(self, name: str, kind: Kind, parent: Trace | None, attributes: Attributes) -> "OtlpSpan":
        started = self._tracer.start_span(
            name, context=_within(parent), kind=_KINDS[kind], attributes=attributes, record_exception=False
        )
        return OtlpSpan(started)

    def begin(self, name: str, parent: Trace, others: tuple[Trace, ...], attributes: Attributes) -> "OtlpRecorded":
        links = [Link(_context_of(other)) for other in others]
        started = self._tracer.start_span(
            name, context=_within(parent), kind=SpanKind.PRODUCER, attributes=attributes, links=links
        )
        return OtlpRecorded(started)

    def stop(self) -> None:
        stopping = Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        stopping.start()
        stopping.join(_FLUSH)


class OtlpRecorded:
    def __init__(self, started: trace.Span) -> None:
        self._span = started

    def end(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)
        self._span.end()


class OtlpSpan:
    def __init__(self, started: trace.Span) -> None:
        self._span = started
        self._trace = _trace_of(started.get_span_context())
        self._tokens: tuple[Token[Context], Token[Trace | None]] | None = None

    @property
    def trace(self) -> Trace:
        return self._trace

    def __enter__(self) -> Self:
        attached = context.attach(trace.set_span_in_context(self._span, Context()))
        self._tokens = attached, CURRENT.set(self._trace)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._tokens is not None:
            attached, current = self._tokens
            context.detach(attached)
            CURRENT.reset(current)
        if kind is not None:
            self.fail(kind.__name__)  # what it says may hold anything
        self._span.end()

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def note(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def fail(self, code: str, message: str = "") -> None:
        self._span.set_status(Status(StatusCode.ERROR, code))
        self._span.add_event("exception", {"exception.type": code, "exception.message": message})


def _resource(service: str, environment: Mapping[str, str]) -> Resource:
    given = {"service.instance.id": f"{socket.gethostname()}:{os.getpid()}"}
    said = environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not environment.get("OTEL_SERVICE_NAME") and "service.name=" not in said:
        given["service.name"] = f"headway-{service}"
    return Resource.create(given)


def _within(parent: Trace | None) -> Context:
    """Nothing else that happens to be current counts."""
    return Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(_context_of(parent)), Context())


def _context_of(place: Trace) -> SpanContext:
    state = TraceState.from_header([place.state]) if place.state else None
    return SpanContext(int(place.id, 16), int(place.span_id, 16), True, TraceFlags(place.flags), state)


def _trace_of(place: SpanContext) -> Trace:
    parent = f"00-{place.trace_id:032x}-{place.span_id:016x}-{place.trace_flags & 3:02x}"
    return Trace(parent, place.trace_state.to_header() if place.trace_state else "")


class _Complaints(logging.Handler):
    """OpenTelemetry's own, of a collector that is away say: one line a minute, without their words, which repeat
    addresses and whatever an answer held.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._told >= _QUIET:
            self._told = now
            error = record.exc_info[0] if record.exc_info else None
            log.warning("traces cannot be sent", by=record.name, error=None if error is None else error.__name__)


def _quieten() -> None:
    library = logging.getLogger("opentelemetry")
    library.handlers[:] = [_Complaints()]
    library.propagate = False
