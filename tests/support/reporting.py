"""A stand-in for Headway that is told of progress, and may do what the real one never should: hang, lie, go away."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, Literal
from uuid import UUID

from msgspec import Struct, field

BATCH, JOB = str(UUID(int=1)), str(UUID(int=2))

Fault = Literal[
    "hang", "drip", "cut", "cut after", "garbage", "foreign", "empty", "500", "429", "redirect", "foreign 404"
]
"""`cut after`: it took what was said, and nobody hears that."""

FAULTS: tuple[Fault, ...] = ("cut", "cut after", "garbage", "foreign", "empty", "500", "429", "redirect", "foreign 404")
"""All but those that take as long as their caller bears it."""


_WORDS = {
    "garbage": (200, "text/html", "<p>Please log in to the hotel's network"),
    "foreign": (200, "application/json", '{"status": "maintenance"}'),
    "empty": (204, "text/html", ""),
    "500": (500, "text/html", "<h1>A proxy's own words"),
    "429": (429, "text/html", "<h1>A proxy's own words"),
    "redirect": (302, "text/html", ""),
    "foreign 404": (404, "text/html", "<h1>A proxy's own words"),
}


class Refusal(Struct, frozen=True):
    """In Headway's own words."""

    status: int
    code: str = "invalid"


class Request(Struct, frozen=True):
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: Any


def _well(_request: Request) -> None:
    return None


class Listening(Struct):
    """What it was told. `choose` may be set at any time: what to do with a request instead of taking it."""

    choose: Callable[[Request], Fault | Refusal | None] = _well
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    """Those that were taken, of all runs, each with its `run`."""
    answer: dict[str, Any] = field(default_factory=dict)
    """What is different in its answers to reports."""
    hanging: Event = field(default_factory=Event)
    """Somebody waits for an answer that does not come."""
    going: Event = field(default_factory=Event)
    """Set when those who wait are to be let go."""
    lock: Any = field(default_factory=Lock)

    def texts(self) -> list[str]:
        """Of lines, in the order in which they were told."""
        return [report["text"] for report in self.reports if "text" in report]

    def types(self) -> list[str]:
        return [report["type"] for report in self.reports]

    def take(self, request: Request) -> dict[str, Any]:
        """The answer of one who keeps the contract."""
        path = request.path.partition("?")[0]
        if path == "/api/batches":
            urls = {"webUrl": f"/batches/{BATCH}#ticket=t", "streamUrl": f"/api/batches/{BATCH}/stream?ticket=t"}
            return {"batchId": BATCH, "reportToken": "a-report-token"} | urls
        if path == f"/api/batches/{BATCH}/jobs":
            return {"items": [{"id": JOB}], "nextCursor": None}
        if path == f"/api/jobs/{JOB}":
            return {"id": JOB, "status": "PROCESSING", "cancelRequested": False, "params": {"silenceSeconds": 300}}
        assert path == f"/api/jobs/{JOB}/report", request
        run = request.body["run"]
        with self.lock:
            last = max((report["sequence"] for report in self.reports if report["run"] == run), default=0)
            for report in request.body["reports"]:
                if report["sequence"] > last:
                    last = report["sequence"]
                    self.reports.append(report | {"run": run})
        said = {"jobId": JOB, "batchId": BATCH, "run": run, "sequence": last, "status": "PROCESSING", "attempt": 1}
        return said | {"cancelRequested": False, "paused": False} | self.answer


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        self._answer(json.loads(self.rfile.read(size)))

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, body: Any) -> None:
        told = self.server.told
        request = Request(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        told.requests.append(request)
        match told.choose(request):
            case None:
                self._say(200, "application/json", json.dumps(told.take(request)))
            case Refusal(status, code):
                problem = {"type": f"/problems/{code}", "title": "No", "status": status, "detail": "It is so"}
                self._say(status, "application/problem+json", json.dumps(problem))
            case "hang":
                told.hanging.set()
                told.going.wait(60)
            case "drip":
                told.hanging.set()
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Word: ")
                while not told.going.wait(0.05):
                    self.wfile.write(b"a")
            case "cut" | "cut after" as fault:
                if fault == "cut after":
                    told.take(request)
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            case fault:
                self._say(*_WORDS[fault])

    def _say(self, status: int, content_type: str, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Retry-After", "\xb2" if status == HTTPStatus.TOO_MANY_REQUESTS else "0")  # a digit, and none
        self.send_header("Location", f"{self.server.told.url}/elsewhere")
        self.end_headers()
        self.wfile.write(text.encode())


class _Server(ThreadingHTTPServer):
    told: Listening
    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, *_: Any) -> None:
        """Whoever asked has gone."""


@contextmanager
def listening(port: int = 0) -> Iterator[Listening]:
    """It answers at its `url`."""
    told = Listening()
    server = _Server(("127.0.0.1", port), _Handler)
    server.told = told
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield told
    finally:
        told.going.set()
        server.shutdown()
        thread.join(10)
        server.server_close()
