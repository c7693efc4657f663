"""infra/k8s: what answers for services that cannot, on a real nginx, asked as ingress-nginx asks it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.batches import wait_for
from tests.support.manifests import FOLDER, container_of, controllers, overlay
from tests.support.needs import program
from tests.support.ports import own_port
from tests.support.sse import Parser

EVENTS = "text/event-stream"


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder, port = tmp_path_factory.mktemp("away"), own_port()
    text = (FOLDER / "components" / "away" / "nginx.conf").read_text()
    # the container's own port and /tmp
    text = text.replace("listen 8000;", f"listen 127.0.0.1:{port};").replace("/tmp/", f"{folder}/")  # noqa: S108
    (folder / "nginx.conf").write_text(text)
    command = [program("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    process = subprocess.Popen(command)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            wait_for(lambda: process.poll() is not None or answers(client), "nginx")
            assert process.poll() is None
            yield client
    finally:
        process.terminate()
        process.wait(10)


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False


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


def test_they_do_not_come_back_all_at_once(away: httpx.Client) -> None:
    headers = {"X-Code": "503", "X-Format": EVENTS}
    told = {away.get("/", headers=headers).text.partition("\n")[0] for _ in range(200)}

    assert len(told) > 4


@pytest.mark.parametrize(("code", "status"), [(429, 429), (502, 503), (503, 503), (504, 503)])
def test_others_get_a_status(away: httpx.Client, code: int, status: int) -> None:
    reply = away.get("/api/stream", headers={"X-Code": str(code), "X-Format": "application/json"})

    assert reply.status_code == reply.json()["status"] == status
    assert reply.headers["content-type"] == "application/problem+json"
    assert int(reply.headers["retry-after"]) > 0


@pytest.mark.parametrize("path", ["/metrics", "/health/ready", "/"])
def test_what_is_not_published_is_not_there(away: httpx.Client, path: str) -> None:
    reply = away.get(path)

    assert reply.status_code == reply.json()["status"] == 404
