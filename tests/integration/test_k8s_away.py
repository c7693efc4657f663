"""infra/k8s: what answers for services that cannot, on a real nginx, asked as ingress-nginx asks it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.ingress import answers_for_others
from tests.support.manifests import FOLDER, container_of, controllers, overlay
from tests.support.sse import Parser

EVENTS = "text/event-stream"


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with answers_for_others(tmp_path_factory.mktemp("away")) as address, httpx.Client(base_url=address) as client:
        yield client


def test_the_manifest_starts_it_with_this_configuration() -> None:
    (found,) = (each for each in controllers(overlay("production")) if each["metadata"]["name"] == "headway-away")
    container = container_of(found)
    assert container["command"] == ["nginx", "-e", "stderr", "-c", "/etc/headway/nginx.conf"]
    (configuration,) = (
        each["data"] for each in overlay("production") if each["metadata"]["name"].startswith("headway-away-")
    )
    assert configuration == {"nginx.conf": Path(FOLDER / "components" / "away" / "nginx.conf").read_text()}


@pytest.mark.parametrize(
    ("code", "said"), [(429, "too_many_connections"), (502, "overloaded"), (503, "overloaded"), (504, "overloaded")]
)
def test_an_eventsource_is_told_to_come_back(away: httpx.Client, code: int, said: str) -> None:
    reply = away.get("/api/stream", headers={"X-Code": str(code), "X-Format": f"{EVENTS}, */*"})

    assert reply.status_code == 200
    assert reply.headers["content-type"] == EVENTS
    assert reply.headers["cache-control"] == "no-cache, no-transform"
    parser = Parser()
    (event,) = parser.feed(reply.content)
    assert event.name == "error"
    assert event.data["code"] == said
    assert event.data["retryable"] is True
    (retry,) = parser.retry
    assert 2000 <= retry <= 6000


@pytest.mark.parametrize(
    "accept",
    [None, "*/*", "text/*", "Text/Event-Stream;q=0.5", "text/html, */*;q=0.1", "application/json,text/event-stream"],
)
def test_whoever_would_take_events_gets_one(away: httpx.Client, accept: str | None) -> None:
    """As at the services and at the other gateways."""
    for method in ("GET", "HEAD"):
        reply = away.request(method, "/", headers={"X-Code": "503", **({"X-Format": accept} if accept else {})})

        assert reply.status_code == 200
        assert reply.headers["content-type"] == EVENTS


@pytest.mark.parametrize("code", [429, 503])
def test_an_eventsource_of_another_site_may_read_it(away: httpx.Client, code: int) -> None:
    """Or it would take it for a refusal, and end."""
    asked = {"X-Code": str(code), "X-Format": EVENTS}
    reply = away.get("/", headers={**asked, "Origin": "https://app.example.org"})

    assert reply.headers["access-control-allow-origin"] == "https://app.example.org"
    assert reply.headers["access-control-allow-credentials"] == "true"
    assert reply.headers["vary"] == "Origin"
    assert not [name for name in away.get("/", headers=asked).headers if name.startswith("access-control")]


def test_they_do_not_come_back_all_at_once(away: httpx.Client) -> None:
    headers = {"X-Code": "503", "X-Format": EVENTS}
    told = {away.get("/", headers=headers).text.partition("\n")[0] for _ in range(200)}

    assert len(told) > 4


@pytest.mark.parametrize(("method", "accept"), [("GET", "application/json"), ("GET", "text/html"), ("POST", EVENTS)])
@pytest.mark.parametrize(("code", "status"), [(429, 429), (502, 503), (503, 503), (504, 503)])
def test_others_get_a_status(away: httpx.Client, code: int, status: int, method: str, accept: str) -> None:
    reply = away.request(method, "/api/stream", headers={"X-Code": str(code), "X-Format": accept})

    assert reply.status_code == reply.json()["status"] == status
    assert reply.headers["content-type"] == "application/problem+json"
    assert int(reply.headers["retry-after"]) > 0


@pytest.mark.parametrize("path", ["/metrics", "/health/ready", "/"])
def test_what_is_not_published_is_not_there(away: httpx.Client, path: str) -> None:
    reply = away.get(path)

    assert reply.status_code == reply.json()["status"] == 404
