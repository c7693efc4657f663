"""What stands before the services, as infra/gateway has it: the real nginx and Caddy, and real services behind."""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from litestar import Litestar
from msgspec.structs import replace

from services.api.app import create_app as create_api
from services.stream.app import create_app as create_stream
from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER, wait_for
from tests.support.gateways import Change, Gateway, caddy, exchange, nginx
from tests.support.ports import own_port
from tests.support.sse import Stream
from tests.support.streams import stream_process, stream_thread
from tests.support.ticketed import ID, opened_by_tickets
from tests.support.tls import client_context, connect
from tests.support.web import answering, assert_problem, decoded, rehearsal, served
from tests.support.websockets import RawSocket, Reader
from tests.support.writer import Writer

Started = Callable[..., AbstractContextManager[Gateway]]
STARTED: dict[str, Started] = {"nginx": nginx, "caddy": caddy}

HASTY: dict[str, dict[str, Change]] = {
    "nginx": {},
    "caddy": {"Caddyfile": lambda text: exchange(text, {"lb_try_duration 3s": "lb_try_duration 200ms"})},
}
"""For those who wait for nobody."""

EVENTS = {"Accept": "text/event-stream"}
LAST = {"Connection": "close"}
NOBODYS = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def settings(
    clone: Callable[..., AbstractContextManager[str]], redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Of all tests here: services and gateways take a while to start."""
    with clone() as database_url:
        yield Settings(
            database_url=database_url,
            redis_url=redis_url,
            namespace="gateways:",
            secret="a secret for tests, of 32 bytes or more",  # noqa: S106  # it protects nothing
            ticket_key="a ticket key for tests, of 32 bytes or more",
            uploads=tmp_path_factory.mktemp("uploads"),
            heartbeat=1,
            drain_grace=1,
            proxies="127.0.0.1",
        )


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[tuple[str, str]]:
    """Where api and stream are."""
    with served(create_api(settings)) as api, stream_thread(settings) as (stream, _):
        yield api, stream


@pytest.fixture(scope="module", params=STARTED)
def gateway(
    request: pytest.FixtureRequest, services: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    with STARTED[request.param](*services, tmp_path_factory.mktemp(request.param) / "state") as gateway:
        yield gateway


@pytest.fixture(params=STARTED)
def alone(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    """Nobody is behind it."""
    nobody = f"http://127.0.0.1:{own_port()}"
    with STARTED[request.param](nobody, nobody, tmp_path / "state", changes=HASTY[request.param]) as gateway:
        yield gateway


@contextmanager
def browser(gateway: Gateway, **headers: str) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=gateway.address, headers=headers, verify=client_context(), timeout=30, trust_env=False
    ) as client:
        yield client


@pytest.fixture
def anna(gateway: Gateway, settings: Settings) -> Iterator[httpx.Client]:
    with browser(gateway, Authorization=f"Bearer {issue_token(settings, OWNER)}") as client:
        yield client


def test_each_change_arrives_before_the_next_is_made(gateway: Gateway, writer: Writer, token: str) -> None:
    writer.start(0)
    with Stream(gateway.address, writer.batch_id, token, headers={"Accept-Encoding": "gzip, br"}) as stream:
        assert stream.status == HTTPStatus.OK
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-cache, no-transform"
        assert stream.headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in stream.headers
        stream.delta()
        assert stream.parser.retry == [2000]
        for percent in range(10, 60, 10):
            stream.to_version(writer.progress(0, percent, lines=1))
        assert stream.until("ping")[-1].data["timestamp"]
        assert stream.record.jobs == writer.state()["jobs"]


def test_a_reader_that_was_cut_off_goes_on_where_it_was(gateway: Gateway, writer: Writer, token: str) -> None:
    writer.start(0)
    with Stream(gateway.address, writer.batch_id, token) as stream:
        stream.to_version(writer.progress(0, 20, lines=3))
        record = stream.record
    writer.progress(0, 40, lines=3)
    with Stream(gateway.address, writer.batch_id, token, record=record) as stream:
        stream.to_version(writer.finish(0, lines=2))

        assert not [event for event in stream.record.refreshes if event.name == "reset"]
        assert stream.record.lines == writer.state()["lines"]


def test_a_finished_batch_ends_its_stream_and_then_answers_204(gateway: Gateway, writer: Writer, token: str) -> None:
    writer.start(0, 1, 2)
    for position in range(3):
        writer.finish(position)
    with Stream(gateway.address, writer.batch_id, token) as stream:
        assert stream.rest()[-1].name == "complete"
        record = stream.record
    with Stream(gateway.address, writer.batch_id, token, record=record) as stream:
        assert stream.status == HTTPStatus.NO_CONTENT


def test_a_websocket_sees_the_same(gateway: Gateway, writer: Writer, token: str) -> None:
    writer.start(0)
    topic = f"batch:{writer.batch_id}"
    with RawSocket(gateway.address, token) as socket:
        reader = Reader(socket)
        reader.subscribe(topic)
        reader.delta(topic)

        reader.to_version(writer.progress(0, 40))

        assert reader.records[topic].jobs == writer.state()["jobs"]


def test_a_websocket_of_another_site_is_refused_and_one_of_ours_is_not(gateway: Gateway) -> None:
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "x" * 22 + "==",
        "Sec-WebSocket-Version": "13",
    }
    with browser(gateway, **handshake) as client:
        assert_problem(client.get("/api/ws", headers={"Origin": "https://elsewhere.example"}), 403, "forbidden")
        with client.stream("GET", "/api/ws", headers={"Origin": gateway.address}) as reply:
            assert reply.status_code == HTTPStatus.SWITCHING_PROTOCOLS


def test_an_upload_of_the_largest_size_passes_and_of_more_does_not(anna: httpx.Client, settings: Settings) -> None:
    most = settings.max_upload
    taken = anna.post("/api/uploads", files={"file": ("a.bin", bytes(most))})
    assert taken.status_code == HTTPStatus.CREATED, taken.text
    assert decoded(taken)["size"] == most

    assert_problem(anna.post("/api/uploads", files={"file": ("a.bin", bytes(most + 1))}), 413, "too_large")
    assert_problem(anna.post("/api/uploads", files={"file": ("a.bin", bytes(most + 2**20))}), 413, "too_large")


def test_a_body_that_announces_no_length_has_the_same_limit(anna: httpx.Client, settings: Settings) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(settings.max_request // 2**20 + 1):
            yield b" " * 2**20

    reply = anna.post("/api/batches", content=body(), headers={"Content-Type": "application/json"})

    assert_problem(reply, 413, "too_large")


def test_a_batch_is_made_and_read_and_what_is_long_comes_compressed(anna: httpx.Client, gateway: Gateway) -> None:
    made = anna.post("/api/batches", json=rehearsal(100))
    assert made.status_code == HTTPStatus.CREATED, made.text
    batch = decoded(made)
    jobs = anna.get(f"/api/batches/{batch['batchId']}/jobs?limit=100", headers={"Accept-Encoding": "gzip"})
    assert len(decoded(jobs)["items"]) == 100
    assert jobs.headers["content-encoding"] == "gzip"
    assert jobs.headers["x-content-type-options"] == "nosniff"
    assert jobs.headers["strict-transport-security"]
    page = anna.get("/")
    assert page.status_code == HTTPStatus.OK
    assert page.headers["content-security-policy"]
    with Stream(gateway.address, "", None, path=urlsplit(batch["streamUrl"]).path + "?" + _query(batch)) as stream:
        stream.delta()
        assert len(stream.record.jobs) == 100


def _query(batch: dict[str, Any]) -> str:
    return str(urlsplit(batch["streamUrl"]).query)


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/x/../metrics", "/health/ready", "/metrics?a=1"]
)
def test_what_is_for_operators_is_not_published(gateway: Gateway, path: str) -> None:
    # by hand: a client would tidy the path up
    with connect(gateway.address) as asking:
        asking.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while received := asking.recv(4096):
            answer += received

    assert answer.startswith(b"HTTP/1.1 404 "), answer
    assert b'"/problems/not_found"' in answer


def test_liveness_is(gateway: Gateway) -> None:
    with browser(gateway) as client:
        assert decoded(client.get("/health/live")) == {"status": "live"}


def test_browsers_are_offered_http_2(gateway: Gateway) -> None:
    context = client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    place = urlsplit(gateway.address)
    with (
        socket.create_connection((str(place.hostname), int(place.port or 0)), 10) as plain,
        context.wrap_socket(plain) as secure,
    ):
        assert secure.selected_alpn_protocol() == "h2"
        assert secure.version() == "TLSv1.3"


def test_without_tls_there_is_only_the_way_to_it(gateway: Gateway) -> None:
    reply = httpx.get(f"{gateway.plain}/batches/7?a=b", trust_env=False)

    assert reply.status_code == HTTPStatus.PERMANENT_REDIRECT
    where = urlsplit(reply.headers["location"])
    assert (where.scheme, where.hostname, where.path, where.query) == ("https", "127.0.0.1", "/batches/7", "a=b")


def test_where_somebody_comes_from_is_not_theirs_to_say(
    settings: Settings, writer: Writer, token: str, tmp_path: Path
) -> None:
    nobody = f"http://127.0.0.1:{own_port()}"
    with stream_thread(replace(settings, address_viewers=1)) as (stream, _):
        for name, start in STARTED.items():
            with start(nobody, stream, tmp_path / name) as gateway:
                said = [{"X-Forwarded-For": f"192.0.2.{number}", "Forwarded": "for=192.0.2.9"} for number in (1, 2)]
                with (
                    Stream(gateway.address, writer.batch_id, token, headers=said[0]) as first,
                    Stream(gateway.address, writer.batch_id, token, headers=said[1]) as second,
                ):
                    first.delta()
                    assert second.next().data["code"] == "too_many_connections"
                wait_for(lambda: _let_in(stream, writer, token), "the first to be gone")


def _let_in(stream: str, writer: Writer, token: str) -> bool:
    with Stream(stream, writer.batch_id, token) as again:
        return again.next().name != "error"


def test_a_service_that_is_away_is_told_of_in_its_own_forms(alone: Gateway, token: str) -> None:
    batch = f"/api/batches/{NOBODYS}"
    with browser(alone, Authorization=f"Bearer {token}") as client:
        for path in (f"{batch}/stream", "/api/stream"):
            for accept in ({}, {"Accept": "text/html, */*;q=0.1"}, EVENTS):
                heard = client.get(path, headers=accept)
                assert heard.status_code == HTTPStatus.OK
                assert heard.headers["content-type"] == "text/event-stream"
                assert heard.headers["cache-control"] == "no-cache, no-transform"
            with Stream(alone.address, "", token, path=path, headers=LAST) as stream:
                (error,) = stream.rest()
                assert (error.name, error.data["code"], error.data["retryable"]) == ("error", "overloaded", True)
                assert 2000 <= stream.parser.retry[0] <= 10_000
            _assert_away(client.get(path, headers={"Accept": "application/json"}))
            _assert_away(client.post(path, headers=EVENTS))
        _assert_away(client.get(f"{batch}/changes", headers=EVENTS))
        _assert_away(client.get("/api/ws", headers={"Connection": "Upgrade", "Upgrade": "websocket", **EVENTS}))
        _assert_away(client.get("/api/batches"))
        _assert_away(client.post("/api/batches", json=rehearsal()))
        _assert_away(client.post("/api/uploads", files={"file": ("large.bin", bytes(17 * 2**20))}))
        _assert_away(client.get("/", headers=EVENTS))


def _assert_away(reply: httpx.Response) -> None:
    assert_problem(reply, 503, "unavailable")
    assert int(reply.headers["retry-after"]) >= 1
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["strict-transport-security"]


def test_pages_of_every_site_may_read_that_they_shall_come_back(alone: Gateway) -> None:
    """Or their EventSource would not. Nothing else that the gateway says is for them."""
    page = {"Origin": "https://app.example.org"}
    with browser(alone, **page) as client:
        for path in ("/api/stream", f"/api/batches/{NOBODYS}/stream"):
            heard = client.get(path, headers=EVENTS)
            assert heard.headers["access-control-allow-origin"] == page["Origin"]
            assert heard.headers["access-control-allow-credentials"] == "true"
            assert heard.headers["vary"] == "Origin"
        for reply in (
            client.get("/api/stream", headers={"Accept": "application/json"}),
            client.get("/api/batches"),
            client.get("/metrics"),
        ):
            assert not [name for name in reply.headers if name.startswith("access-control-")]
    with browser(alone) as client:
        ours = client.get("/api/stream", headers=EVENTS)
        assert not [name for name in ours.headers if name.startswith("access-control-")]
        assert ours.headers["vary"] == "Origin"


def test_who_takes_no_events_gets_the_refusal_of_the_service_itself(
    settings: Settings, writer: Writer, token: str, tmp_path: Path
) -> None:
    nobody = f"http://127.0.0.1:{own_port()}"
    path = f"/api/batches/{writer.batch_id}/stream"
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    with (
        stream_thread(replace(settings, namespace="alone:", owner_viewers=1)) as (stream, _),
        Stream(stream, writer.batch_id, token) as only,
    ):
        only.delta()
        own = httpx.get(f"{stream}{path}", headers=headers, trust_env=False)
        assert_problem(own, 429, "too_many_requests")
        for name, start in STARTED.items():
            with start(nobody, stream, tmp_path / name) as gateway, browser(gateway, **headers) as client:
                seen = client.get(path)
                assert (seen.status_code, seen.content) == (own.status_code, own.content)
                assert seen.headers["retry-after"] == own.headers["retry-after"]
                assert seen.headers["content-type"] == own.headers["content-type"]
                heard = client.get(path, headers=EVENTS)
                assert heard.status_code == HTTPStatus.OK
                assert decoded(own)["detail"] in heard.text


def test_what_a_balancer_in_between_answers_ends_no_eventsource(
    services: tuple[str, str], token: str, tmp_path: Path
) -> None:
    for status in (429, 502, 503, 504):
        with served(answering(status, b"its own")) as stream:
            for name, start in STARTED.items():
                with (
                    start(services[0], stream, tmp_path / f"{name}-{status}") as gateway,
                    browser(gateway, Authorization=f"Bearer {token}") as client,
                ):
                    heard = client.get("/api/stream", headers=EVENTS)
                    assert heard.status_code == HTTPStatus.OK
                    assert heard.text.startswith("retry: ")
                    seen = client.get("/api/stream", headers={"Accept": "application/json"})
                    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
                        assert (seen.status_code, seen.text) == (status, "its own")
                    else:
                        _assert_away(seen)


@pytest.mark.parametrize("name", STARTED)
def test_a_stream_process_that_is_killed_is_come_back_to(
    settings: Settings, services: tuple[str, str], writer: Writer, token: str, tmp_path: Path, name: str
) -> None:
    writer.start(0)
    with (
        stream_process(settings) as (stream, process),
        STARTED[name](services[0], stream, tmp_path / "state", changes=HASTY[name]) as gateway,
    ):
        with Stream(gateway.address, writer.batch_id, token) as reader:
            reader.to_version(writer.progress(0, 10))
            process.kill()
            process.wait(10)
            assert _cut(reader), "the end of the service is not the end of its streams"
        writer.progress(0, 20)
        with Stream(gateway.address, writer.batch_id, token, record=reader.record, headers=LAST) as away:
            assert away.status == HTTPStatus.OK
            assert [event.data["code"] for event in away.rest()] == ["overloaded"]
        with (
            stream_process(settings, port=urlsplit(stream).port),
            Stream(gateway.address, writer.batch_id, token, record=reader.record) as back,
        ):
            back.to_version(writer.progress(0, 30))
            assert back.record.jobs == writer.state()["jobs"]


def _cut(reader: Stream) -> bool:
    """Its connection ends, without the end of a stream."""
    with suppress(OSError):
        while not reader.ended:
            reader.chunk()
    return True


def test_no_log_holds_a_ticket_whatever_becomes_of_the_request(
    gateway: Gateway, alone: Gateway, writer: Writer, ticket: str
) -> None:
    batch = f"/api/batches/{writer.batch_id}"
    paths = [
        *(f"{path}?a=b&ticket={ticket}" for path in (*opened_by_tickets(id=writer.batch_id), f"{batch}/nothing")),
        f"{batch}?%74icket={ticket}",
        f"/metrics?ticket={ticket}",
    ]
    for somebody in (gateway, alone):
        with browser(somebody, Referer=f"{somebody.address}{paths[0]}") as client:
            for path in paths:
                with client.stream("GET", path) as reply:
                    assert reply.status_code
        httpx.get(f"{somebody.plain}{paths[0]}", trust_env=False)
        written = _logged(somebody, f"{batch}/logs")
        assert ticket not in written
        assert ticket.partition(".")[2] not in written


def test_no_address_that_a_ticket_opens_is_forgotten_here(settings: Settings) -> None:
    """Those of stream read tickets themselves: they have no mark, and are in its documentation."""
    marked = {
        re.sub(r"\{[^}]*\}", ID, route.path)
        for route in create_api(settings).routes
        for handler in getattr(route, "route_handlers", ())
        if handler.opt.get("ticket_opens")
    }
    streams = {re.sub(r"\{[^}]*\}", ID, route.path) for route in create_stream(settings).routes}

    assert marked == set(opened_by_tickets()) - streams
    assert len(marked) >= 3
    assert {"stream", "changes", "ws"} == {path.split("/")[-1] for path in set(opened_by_tickets()) & streams}


def _logged(gateway: Gateway, path: str) -> str:
    """All that it wrote, once it has written of that path."""
    wait_for(lambda: path in gateway.access, "its log")
    return gateway.written


def test_every_address_leads_to_the_service_that_has_it(settings: Settings, tmp_path: Path) -> None:
    unknown = [("/api/streams", "api"), ("/x/api/stream", "api"), (f"/api/batches/{NOBODYS}/stream/x", "api")]
    paths = [*_addresses(create_api(settings), "api"), *_addresses(create_stream(settings), "stream"), *unknown]
    assert len(paths) > 20
    with served(answering(200, b"api")) as api, served(answering(200, b"stream")) as stream:
        for name, start in STARTED.items():
            with start(api, stream, tmp_path / name) as gateway, browser(gateway) as client:
                for path, service in paths:
                    assert client.get(path).text == service, (name, path)
                    assert client.get(f"{path.rstrip('/')}/").text == service, (name, path)


def _addresses(app: Litestar, service: str) -> Iterator[tuple[str, str]]:
    """Those that a gateway publishes; everything that varies in them is an id."""
    for route in app.routes:
        if not re.match(r"/(metrics|health)", route.path):
            yield re.sub(r"\{[^}]*\}", NOBODYS, route.path), service
