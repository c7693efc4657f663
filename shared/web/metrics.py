"""`GET /metrics`: a service's numbers for Prometheus, with those of its process. No gateway publishes it."""

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.registry import Collector

ADDRESS = "/metrics"

_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The older of the two forms, which everything that reads metrics understands."""


def metrics_route(*collectors: Collector) -> HTTPRouteHandler:
    """`collectors` are asked in another thread than the event loop's."""
    # one for each application: the library's own is for all that a process ever does, which is twice in tests
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    for standard in (ProcessCollector, PlatformCollector, GCCollector):
        standard(registry=registry)

    # in a thread: to count ten thousand open files takes a while
    @get(ADDRESS, sync_to_thread=True, response_headers={"Cache-Control": "no-store"})
    def metrics() -> Response[bytes]:
        return Response(generate_latest(registry), headers={"Content-Type": _TYPE})

    return metrics
