"""Pages of other sites: what those that are listed may do, and that others may do nothing, whatever the reply is."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from infra.web import Web
from services.api.app import create_app as create_api
from services.stream.app import create_app as create_stream
from shared.auth import issue_ticket, issue_token, verify_token
from shared.settings import Settings, SettingsError
from tests.support.batches import OWNER
from tests.support.sse import Record, Stream
from tests.support.web import client, served, submit
from tests.support.writer import Writer

LISTED = ["https://app.example.org", "http://localhost:3000"]
OTHERS = ["https://evil.example", "https://app.example.org.evil.example", "http://app.example.org", "null",
          "https://app.example.org:8443", "https://appXexample.org", "HTTPS://APP.EXAMPLE.ORG", "*"]  # fmt: skip


@pytest.fixture
def listing(settings: Settings) -> Settings:
    return replace(settings, origins=", ".join(LISTED))


@pytest.fixture
def address(listing: Settings) -> Iterator[str]:
    with served(Web(create_api(listing), create_stream(listing))) as address:
        yield address


@pytest.fixture
def writer(engine: sa.Engine, settings: Settings) -> Iterator[Writer]:
    writer = Writer(engine, settings)
    yield writer
    writer.close()


@pytest.fixture
def token(settings: Settings) -> str:
    return issue_token(settings, OWNER)


def named(value: str) -> set[str]:
    return {part.strip().lower() for part in value.split(",")}


def assert_granted(headers: Any, origin: str = LISTED[0]) -> None:
    assert headers["access-control-allow-origin"] == origin
    assert headers["access-control-allow-credentials"] == "true"
    assert "origin" in named(headers["vary"])


def assert_nothing_granted(headers: Any) -> None:
    assert [name for name in headers if name.startswith("access-control")] == []


@pytest.mark.parametrize(
    "path", ["/api/batches", "/api/batches/00000000-0000-7000-8000-000000000000/stream", "/api/nonsense"]
)
def test_a_listed_page_is_told_all_that_it_may_do(address: str, path: str) -> None:
    for origin in LISTED:
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": "DELETE",
            "Access-Control-Request-Headers": "authorization,idempotency-key",
        }
        reply = httpx.options(f"{address}{path}", headers=asked, trust_env=False)
        assert (reply.status_code, reply.content) == (204, b"")
        assert_granted(reply.headers, origin)
        assert named(reply.headers["access-control-allow-methods"]) >= {"get", "head", "post", "put", "patch", "delete"}
        allowed = named(reply.headers["access-control-allow-headers"])
        assert allowed >= {"authorization", "content-type", "idempotency-key", "last-event-id"}
        assert int(reply.headers["access-control-max-age"]) > 0
    for origin in OTHERS:
        reply = httpx.options(f"{address}{path}", headers=asked | {"Origin": origin}, trust_env=False)
        assert (reply.status_code, reply.content) == (204, b""), "a preflight has no token to be asked for"
        assert_nothing_granted(reply.headers)
        assert "origin" in named(reply.headers["vary"])


@pytest.mark.parametrize("path", ["/api/batches", "/api/stream", "/api/nonsense"])
def test_options_of_a_program_are_no_preflight(address: str, path: str, token: str) -> None:
    no_page = {"Access-Control-Request-Method": "GET"}
    no_preflight = {"Origin": OTHERS[0]}
    for headers in ({}, no_page, no_preflight):
        stranger = httpx.options(f"{address}{path}", headers=headers, trust_env=False)
        assert stranger.status_code == (204 if path == "/api/stream" else 401)
        reply = httpx.options(
            f"{address}{path}", headers=headers | {"Authorization": f"Bearer {token}"}, trust_env=False
        )
        assert reply.status_code == (404 if path == "/api/nonsense" else 204)
        assert ("GET" in reply.headers.get("allow", "")) == (path != "/api/nonsense")


def test_every_reply_to_a_listed_page_can_be_read(address: str, settings: Settings, token: str) -> None:
    owner = {"Authorization": f"Bearer {token}"}
    with client(address, settings) as anna:
        batch_id = submit(anna)["batchId"]
    requests: list[tuple[str, str, dict[str, str], int]] = [
        ("GET", "/api/kinds", owner, 200),
        ("HEAD", "/health/live", {}, 405),
        ("GET", "/health/live", {}, 200),
        ("GET", "/", {}, 200),
        ("GET", "/static/headway.js", {}, 200),
        ("GET", "/api/kinds", {}, 401),
        ("GET", "/api/kinds", {"Authorization": f"Bearer {issue_token(settings, OWNER, scope='write')}"}, 403),
        ("GET", f"/api/batches/{uuid4()}", owner, 404),
        ("GET", "/api/nonsense", owner, 404),
        ("GET", "/api/nonsense", {}, 401),
        ("PUT", "/api/batches", owner, 405),
        ("POST", "/api/batches", owner, 415),
        ("GET", "/api/kinds?x=1", owner, 422),
        ("POST", f"/api/batches/{batch_id}/cancel", owner, 202),
        ("GET", f"/api/batches/{uuid4()}/stream", {}, 401),
        ("GET", f"/api/batches/{uuid4()}/stream", owner, 404),
        ("GET", f"/api/batches/{batch_id}/stream?jobs=x", owner, 422),
    ]
    with httpx.Client(base_url=address, trust_env=False) as page:
        for method, path, headers, status in requests:
            reply = page.request(method, path, headers=headers | {"Origin": LISTED[0]})
            assert (path, reply.status_code) == (path, status)
            assert_granted(reply.headers)
            exposed = named(reply.headers["access-control-expose-headers"])
            assert exposed >= {"location", "retry-after", "content-disposition"}
            for others in ({"Origin": OTHERS[0]}, {}):
                reply = page.request(method, path, headers=headers | others)
                assert_nothing_granted(reply.headers)
                assert "origin" in named(reply.headers["vary"]), "a cache keeps one origin's reply for another"


def test_streams_and_their_ends_can_be_read(address: str, settings: Settings, writer: Writer, token: str) -> None:
    ticket, _ = issue_ticket(settings, verify_token(settings, token), writer.batch_id)
    listed = {"Origin": LISTED[1]}
    with Stream(address, writer.batch_id, None, ticket=ticket, headers=listed) as stream:
        stream.delta()
        assert_granted(stream.headers, LISTED[1])
        assert stream.headers["content-type"] == "text/event-stream"
        with Stream(address, writer.batch_id, token, headers={"Origin": OTHERS[0]}) as other:
            assert_nothing_granted(other.headers)
        with Stream(address, writer.batch_id, token, method="HEAD", headers=listed) as head:
            assert_granted(head.headers, LISTED[1])
        writer.start(0)
        writer.finish(0)
        stream.rest()
        last_id = stream.record.id
    with Stream(address, writer.batch_id, token, headers=listed, record=Record(last_id)) as nothing:
        assert nothing.status == 204
        assert_granted(nothing.headers, LISTED[1])


def test_refusals_can_be_read(listing: Settings, writer: Writer, token: str) -> None:
    listed = {"Origin": LISTED[1]}
    with (
        served(create_stream(replace(listing, viewers=1))) as address,
        Stream(address, writer.batch_id, token) as stream,
    ):
        stream.delta()
        with Stream(address, writer.batch_id, token, headers=listed) as refused:
            assert refused.rest()[0].data["code"] == "too_many_connections"
            assert_granted(refused.headers, LISTED[1])
        reply = httpx.get(
            f"{address}/api/batches/{writer.batch_id}/stream",
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json"} | listed,
            trust_env=False,
        )
        assert reply.status_code == 429
        assert_granted(reply.headers, LISTED[1])


def test_without_a_list_nobody_is_granted_anything(settings: Settings, token: str) -> None:
    with served(Web(create_api(settings), create_stream(settings))) as address:
        for origin in (*LISTED, *OTHERS, address):
            asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
            for path in ("/api/kinds", "/api/stream"):
                reply = httpx.get(
                    f"{address}{path}", headers=asked | {"Authorization": f"Bearer {token}x"}, trust_env=False
                )
                assert reply.status_code == 401
                assert_nothing_granted(reply.headers)
                reply = httpx.options(f"{address}{path}", headers=asked, trust_env=False)
                assert (reply.status_code, reply.content) == (204, b"")
                assert_nothing_granted(reply.headers)


@pytest.mark.parametrize(
    "origins",
    ["*", "app.example.org", "https://app.example.org/", "https://*.example.org", "https://a.example:443", "null",
     "http://a.example:80", "https://App.example.org", "https://user@a.example", "ws://a.example", "https://a b",
     "https://a.example,*", "https://a.example;https://b.example", "https://bücher.example"],
)  # fmt: skip
def test_what_is_no_origin_stops_the_start(settings: Settings, origins: str) -> None:
    changed = replace(settings, origins=origins)
    for create in (create_api, create_stream):
        with pytest.raises(SettingsError, match=r"HEADWAY_ORIGINS: .* is not an origin"):
            create(changed)
