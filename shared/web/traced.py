"""Requests as parts of traces: where each belongs, by its headers, and a span for it if tracing is on."""

from http import HTTPStatus
from typing import Any

from litestar import Litestar

from shared import tracing
from shared.trace import CURRENT, LONGEST_STATE, Trace, read_trace
from shared.web.access import route

_PROBES = "/health/", "/metrics"


def trace_of(headers: Any) -> Trace | None:
    """What a request's `traceparent` and `tracestate` say; None if nothing that is valid. Never an error."""
    parents = [value for name, value in headers if name == b"traceparent"]
    if len(parents) != 1:
        return None
    states = [value for name, value in headers if name == b"tracestate"]
    # a header of many lines may be as long as the server lets it be
    state = b",".join(states) if sum(map(len, states)) <= LONGEST_STATE else b""
    return read_trace(parents[0].decode("latin-1").strip(" \t"), state.decode("latin-1"))


class Traced:
    """An ASGI application around another. What it does for a request belongs where CURRENT says."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_PROBES):
            await self._app(scope, receive, send)
            return
        trace, recorder = trace_of(scope["headers"]), tracing.recorder()
        if recorder is None:
            CURRENT.set(trace)  # and never taken back: it is the request's own, and the line of log comes after us
            await self._app(scope, receive, send)
            return
        status = 0

        async def note(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        method = scope["method"]
        with recorder.span(method, "server", trace, {"http.request.method": method}) as span:
            try:
                await self._app(scope, receive, note)
            finally:
                taken = route(scope)  # never the address as it came: a part of it may be a ticket
                span.rename(f"{method} {taken}")
                span.note({"http.route": taken, "http.response.status_code": status})
                if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    span.fail(str(status))
        CURRENT.set(span.trace)


def trace_requests(app: Litestar) -> Litestar:
    """The application, each of whose requests is a part of a trace."""
    app.asgi_handler = Traced(app.asgi_handler)
    return app
