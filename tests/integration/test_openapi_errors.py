"""Every error that the OpenAPI document gives an operation, provoked: none stands there that cannot come."""

import resource
import socket
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from infra.web import Web
from services.api.app import create_app as create_api
from services.stream.app import create_app as create_stream
from shared.errors import all_errors
from shared.settings import Settings
from shared.web.protocol import LONGEST_ADDRESS, LONGEST_HEADERS
from tests.support.openapi import OPENAPI, check_reply, described, validate
from tests.support.ports import own_port
from tests.support.sse import Stream
from tests.support.web import client, rehearsal, served
from tests.support.wire import Normal, compare
from tests.support.writer import Writer

LIMIT = 2000

ELSEWHERE = {"internal", "too_many_requests", "disk_full"}
"""A mistake of ours, too many streams and a full disk have tests of their own."""

OPERATIONS = [(method.upper(), path) for path, methods in OPENAPI["paths"].items() for method in methods]


BODIES: dict[str, Any] = {
    "/api/jobs/{id}/report": {"run": str(uuid4()), "reports": [{"sequence": 1, "type": "start"}]},
    "/api/batches/{id}/jobs": {"jobs": rehearsal()["jobs"]},
}
"""Those that are right, where it is not a submission."""


class Place:
    """A Headway with a finished and an unfinished batch, as a user, one with less rights and a stranger see it."""

    def __init__(self, address: str, settings: Settings, finished: Writer, unfinished: Writer) -> None:
        self.address = address
        self.user = client(address, settings, scope="admin")
        self.reporter = client(address, settings, scope="report")
        self.reader = client(address, settings, scope="read")
        self.stranger = httpx.Client(base_url=address, trust_env=False)
        self.finished, self.unfinished = finished, unfinished

    def close(self) -> None:
        for each in (self.user, self.reporter, self.reader, self.stranger):
            each.close()

    def ask(self, who: httpx.Client, method: str, path: str, **more: Any) -> httpx.Response:
        """With a body that is right, unless another is given."""
        body = described(method, path).get("requestBody", {})
        if body.get("required") and not more.keys() & {"content", "files", "json"}:
            form = "multipart/form-data" in body["content"]
            more |= {"files": {"file": ("a.txt", b"text")}} if form else {"json": BODIES.get(path) or rehearsal()}
        return who.request(method, self.filled(path, more.pop("variables", {})), **more)

    def filled(self, path: str, variables: dict[str, Any]) -> str:
        known = {"path": "page.css", "name": "swagger-ui.css", "code": "invalid", "id": self.finished.batch_id}
        known["artifact"] = self.finished.batch_id  # an id that is none
        if path.startswith("/api/jobs"):
            known["id"] = self.finished.jobs[0]
        return path.format(**known | variables)

    def raw(self, method: str, path: str, *, query: str = "", header: str = "X: y") -> httpx.Response:
        """As no client library would let one ask."""
        url = httpx.URL(self.address)
        with socket.create_connection((url.host, url.port or 80), timeout=10) as connection:
            target = self.filled(path, {}) + query
            connection.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode())
            reply = b""
            while data := connection.recv(65536):
                reply += data
        head, _, body = reply.partition(b"\r\n\r\n")
        status, *headers = head.decode().split("\r\n")
        return httpx.Response(
            int(status.split()[1]), headers=[tuple(line.split(": ", 1)) for line in headers], content=body
        )


@pytest.fixture
def place(settings: Settings, engine: sa.Engine) -> Iterator[Place]:
    settings = replace(settings, max_request=LIMIT, max_upload=LIMIT, owner_viewers=1)
    finished, unfinished = Writer(engine, settings), Writer(engine, settings)
    finished.start(0)
    finished.finish(0)
    with served(Web(create_api(settings), create_stream(settings))) as address:
        place = Place(address, settings, finished, unfinished)
        yield place
        place.close()
    for writer in (finished, unfinished):
        writer.close()


@pytest.fixture
def without_database(settings: Settings) -> Iterator[Place]:
    settings = replace(settings, database_url=f"postgresql://127.0.0.1:{own_port()}/x")
    nothing: Any = type("Nothing", (), {"batch_id": uuid4(), "jobs": [uuid4()]})
    with served(Web(create_api(settings), create_stream(settings))) as address:
        place = Place(address, settings, nothing, nothing)
        yield place
        place.close()


def too_long(place: Place, method: str, path: str) -> httpx.Response:
    return place.ask(place.user, method, path, content=b"x" * 80 * LIMIT, headers=content_type(method, path))


def other_type(place: Place, method: str, path: str) -> httpx.Response:
    if "requestBody" in described(method, path) and described(method, path)["requestBody"]["required"]:
        return place.ask(place.user, method, path, content=b"{}", headers={"Content-Type": "text/plain"})
    return place.ask(place.user, method, path, headers={"Content-Encoding": "gzip"}, content=b"{}")


def content_type(method: str, path: str) -> dict[str, str]:
    content = described(method, path).get("requestBody", {}).get("content", {"application/json": {}})
    (kind,) = content
    return {"Content-Type": f"{kind}; boundary=x" if kind.startswith("multipart") else kind}


def missing(place: Place, method: str, path: str) -> httpx.Response:
    variables = dict.fromkeys(("id", "path", "name", "code", "artifact"), str(uuid4()))
    reply = place.ask(place.user, method, path, variables=variables)
    if path == "/batches/{id}":  # the page is there for every id; its script knows better
        assert reply.status_code == 200
        return place.ask(place.user, method, path, variables={"id": "nonsense"})
    return reply


def forbidden(place: Place, method: str, path: str) -> httpx.Response:
    """To one whose scope is another."""
    reports = described(method, path)["security"] == [{"bearer": ["report"]}]
    return place.ask(place.reader if reports else place.reporter, method, path)


def senseless(place: Place, method: str, path: str) -> httpx.Response:
    if path == "/api/batches":
        headers = {"Idempotency-Key": "once"}
        place.ask(place.user, method, path, headers=headers).raise_for_status()
        return place.ask(place.user, method, path, headers=headers, json=rehearsal(title="another"))
    batch = place.unfinished if method == "DELETE" else place.finished
    if path.endswith("/close"):
        cancelled = place.user.post("/api/batches", json=rehearsal()).json()["batchId"]
        place.user.post(f"/api/batches/{cancelled}/cancel").raise_for_status()
        return place.ask(place.user, method, path, variables={"id": cancelled})
    job = path.startswith("/api/jobs")
    return place.ask(place.user, method, path, variables={"id": batch.jobs[0] if job else batch.batch_id})


PROVOKED: dict[str, Callable[[Place, str, str], httpx.Response]] = {
    "malformed": lambda place, method, path: place.raw(method, path, header="no header"),
    "unauthenticated": lambda place, method, path: place.ask(place.stranger, method, path),
    "forbidden": forbidden,
    "not_found": missing,
    "conflict": senseless,
    "too_large": too_long,
    "address_too_long": lambda place, method, path: place.raw(method, path, query="?" + "x" * LONGEST_ADDRESS),
    "unsupported_media_type": other_type,
    "invalid": lambda place, method, path: place.ask(place.user, method, path, params={"nonsense": "1"}),
    "headers_too_large": lambda place, method, path: place.raw(method, path, header="X: " + "x" * LONGEST_HEADERS),
}


def codes(method: str, path: str) -> dict[int, str]:
    replies = described(method, path)["responses"]
    return {int(status): reply["$ref"].rpartition("/")[2] for status, reply in replies.items() if "$ref" in reply}


def test_every_error_that_is_described_comes(place: Place) -> None:
    for method, path in OPERATIONS:
        for status, code in codes(method, path).items():
            if code in ELSEWHERE or code == "unavailable":
                continue
            reply = PROVOKED[code](place, method, path)
            assert reply.status_code == status, (method, path, code, reply.text)
            check_reply(method, path, reply)


def test_every_address_refuses_methods_that_are_not_described(place: Place) -> None:
    for path, methods in OPENAPI["paths"].items():
        reply = place.user.request("PATCH", place.filled(path, {}))
        assert reply.status_code == 405
        assert reply.json()["type"] == "/problems/method_not_allowed"
        named = {method.upper() for method in methods} | {"OPTIONS"}
        assert set(reply.headers["allow"].split(", ")) == named
        options = place.user.options(place.filled(path, {}))
        assert (options.status_code, set(options.headers["allow"].split(", "))) == (204, named)


def test_without_a_database_everything_that_needs_it_says_so(without_database: Place) -> None:
    asked = 0
    for method, path in OPERATIONS:
        # the kinds are known without it, and a WebSocket may be opened: only a server for keys could be away
        if "unavailable" in codes(method, path).values() and path not in {"/api/kinds", "/api/ws"}:
            reply = without_database.ask(
                without_database.user, method, path, headers={"Accept": "application/json"}, timeout=30
            )
            assert reply.status_code == 503, (method, path, reply.text)
            check_reply(method, path, reply)
            asked += 1
    assert asked > 10


def full_disk(place: Place) -> httpx.Response:
    """As far as a process without privileges can have one: no file may grow any more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        return place.ask(place.user, "POST", "/api/uploads")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def second_stream(place: Place) -> httpx.Response:
    token = place.user.headers["Authorization"].removeprefix("Bearer ")
    id_ = place.unfinished.batch_id
    with Stream(place.address, id_, token) as first:
        first.delta()
        headers = {"Accept": "application/json"}
        return place.ask(place.user, "GET", "/api/batches/{id}/stream", variables={"id": id_}, headers=headers)


def mistake(place: Place, engine: sa.Engine) -> httpx.Response:
    """The database is not the one that the code was written for."""
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE transitions"))
    return place.ask(place.user, "GET", "/api/jobs/{id}")


def test_every_problem_is_the_golden_one_on_the_wire(
    place: Place, without_database: Place, engine: sa.Engine, rewrite_wire: bool
) -> None:
    """tests/wire/problems.json, which the command's tests read too."""
    create, watch, control = "/api/batches", "/api/batches/{id}/stream", "/api/batches/{id}/cancel"
    asked = {"GET": {"unauthenticated", "forbidden", "not_found", "address_too_long", "headers_too_large"}}
    replies = {}
    for code, provoke in PROVOKED.items():
        method, path = ("GET", watch) if code in asked["GET"] else ("POST", control if code == "conflict" else create)
        replies[code] = provoke(place, method, path)
    replies |= {
        "malformed": place.ask(place.user, "POST", create, content=b"{", headers={"Content-Type": "application/json"}),
        "invalid": place.ask(place.user, "POST", create, json=rehearsal(titel="x", params={"stepMs": -1})),
        "method_not_allowed": place.user.put("/api/kinds"),
        "too_many_requests": second_stream(place),
        "disk_full": full_disk(place),
        "unavailable": without_database.ask(without_database.user, "GET", "/api/batches"),
        "internal": mistake(place, engine),
    }
    recorded = {}
    for error in all_errors():
        reply = replies[error.code]
        assert (reply.status_code, reply.headers["content-type"]) == (error.status, "application/problem+json")
        validate(
            reply.json(),
            OPENAPI["components"]["responses"][error.code]["content"]["application/problem+json"]["schema"],
        )
        named = OPENAPI["components"]["responses"][error.code].get("headers", {})
        recorded[error.code] = {
            "status": reply.status_code,
            "headers": {name: reply.headers[name] for name in named},
            "body": reply.json(),
        }
    compare("problems.json", Normal()(recorded), rewrite=rewrite_wire)
