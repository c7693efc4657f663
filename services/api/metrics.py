"""What this process counts. `exposition.py` shows it, and docs/operations.md describes it.

Requests are counted in the event loop, the rest in handlers' threads.
"""

import time
from bisect import bisect_left
from threading import Lock
from typing import Any

import msgspec
from litestar import Litestar
from msgspec import Struct

from shared.errors import all_errors
from shared.web.access import route

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""All others are counted as `other`: a label's values have to end somewhere."""

_PROBES = "/health/", "/metrics"

_PROBLEM = b"application/problem+json"


class Requests(Struct):
    """To one route by one method."""

    by_status: dict[str, int] = msgspec.field(default_factory=dict)
    """`2xx` and so on; `none`: nobody was answered."""
    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0


class Metrics:
    """All numbers only grow, but for `in_flight`."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str], Requests] = {}
        """By route and method."""
        self.in_flight = 0
        self.problems = dict.fromkeys((error.code for error in all_errors()), 0)
        self.batches: dict[str, int] = {}
        self.jobs: dict[str, int] = {}
        """Created, by kind."""
        self.uploads = 0
        self.upload_bytes = 0
        self._lock = Lock()

    def created(self, kind: str, jobs: int, *, batches: int = 0) -> None:
        with self._lock:
            self.batches[kind] = self.batches.get(kind, 0) + batches
            self.jobs[kind] = self.jobs.get(kind, 0) + jobs

    def uploaded(self, size: int) -> None:
        with self._lock:
            self.uploads += 1
            self.upload_bytes += size

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """`status` 0: nobody was answered."""
        known = self.requests.get((route, method))
        if known is None:
            known = self.requests.setdefault((route, method), Requests())
        how = f"{status // 100}xx" if status else "none"
        known.by_status[how] = known.by_status.get(how, 0) + 1
        known.counts[bisect_left(BOUNDS, seconds)] += 1
        known.seconds += seconds

    def refused(self, body: bytes) -> None:
        """With a problem."""
        try:
            code = _problem(body).type.rpartition("/")[2]
        except msgspec.MsgspecError:
            return
        if code in self.problems:
            self.problems[code] += 1


class _Problem(Struct):
    type: str


_problem = msgspec.json.Decoder(_Problem).decode


class Counted:
    """An ASGI application around another, whose requests are counted. Probes are not."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_PROBES):
            await self._app(scope, receive, send)
            return
        metrics, status, problem = self._metrics, 0, False

        async def note(message: Any) -> None:
            nonlocal status, problem
            if message["type"] == "http.response.start":
                status = int(message["status"])
                problem = status >= 400 and _is_problem(message)  # noqa: PLR2004  # all from there on are errors
            elif problem:
                problem = False
                metrics.refused(message.get("body", b""))
            await send(message)

        metrics.in_flight += 1
        began = time.perf_counter()
        try:
            await self._app(scope, receive, note)
        finally:
            metrics.in_flight -= 1
            method = scope["method"] if scope["method"] in METHODS else "other"
            metrics.answered(route(scope), method, status, time.perf_counter() - began)


def count_requests(app: Litestar, metrics: Metrics) -> Litestar:
    """The application, whose requests are counted."""
    app.asgi_handler = Counted(app.asgi_handler, metrics)
    return app


def _is_problem(message: Any) -> bool:
    return any(name == b"content-type" and value.startswith(_PROBLEM) for name, value in message.get("headers", ()))
