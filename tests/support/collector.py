"""A collector of traces: takes what is sent by OTLP over HTTP, and keeps it."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from msgspec import Struct
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as wire
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


class Seen(Struct, frozen=True):
    """A span."""

    service: str
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    """Empty: none."""
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    """The trace and the span of each."""
    events: list[dict[str, Any]]
    failed: str | None
    """What its status says, if that is an error."""


class Collector:
    def __init__(self) -> None:
        self._spans: list[Seen] = []
        self._lock = Lock()
        self.address = ""

    @property
    def spans(self) -> list[Seen]:
        with self._lock:
            return list(self._spans)

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that is to send its spans here, at once."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.address, "OTEL_BSP_SCHEDULE_DELAY": "50"}

    def named(self, name: str) -> list[Seen]:
        return [span for span in self.spans if span.name == name]

    def take(self, body: bytes) -> None:
        for resource in wire.ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _values(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                with self._lock:
                    self._spans += [_seen(service, span) for span in scope.spans]


@contextmanager
def collector() -> Iterator[Collector]:
    kept = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            kept.take(body)
            answer = wire.ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """Processes that are killed cut their connections."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    kept.address = "http://{}:{}".format(*server.server_address[:2])
    try:
        yield kept
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _seen(service: str, span: Span) -> Seen:
    return Seen(
        service=service,
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        attributes=_values(span.attributes),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        events=[_values(event.attributes) for event in span.events],
        failed=span.status.message if span.status.code == Status.STATUS_CODE_ERROR else None,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
