"""infra/k8s: what ingress-nginx logs and answers when services cannot, on a real nginx with its locations."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.batches import wait_for
from tests.support.ingress import answers_for_others, controller_options, ingress_nginx
from tests.support.ports import own_port
from tests.support.ticketed import ID, opened_by_tickets
from tests.support.web import answering, served

TICKET = "eyJhbGciOiJIUzI1NiJ9.a-ticket-that-nobody-may-read.and-its-signature"

DEFAULTS = {
    "log-format-upstream": '$remote_addr - $remote_user [$time_local] "$request" $status "$http_referer" $upstream_addr'
}
"""Of the controller, about."""

EVENTS = {"Accept": "text/event-stream"}

Ingress = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture
def ingress(tmp_path: Path) -> Ingress:
    @contextmanager
    def start(stream: str, options: Mapping[str, str]) -> Iterator[httpx.Client]:
        with answers_for_others(tmp_path / "away") as away:
            services = {"headway-api": nobody(), "headway-stream": stream, "headway-away": away}
            with (
                ingress_nginx(tmp_path / "ingress", services, options) as address,
                httpx.Client(base_url=address, trust_env=False, timeout=30) as client,
            ):
                yield client

    return start


def nobody() -> str:
    return f"http://127.0.0.1:{own_port()}"


def written(folder: Path) -> str:
    """All that nginx wrote, once it has written of a last request."""
    log = folder / "ingress" / "access.log"
    wait_for(lambda: "/the-last" in log.read_text(), "its log")
    return "".join(path.read_text() for path in (folder / "ingress").glob("*.log"))


def ask_everything(client: httpx.Client) -> list[int]:
    """The statuses of all addresses that a ticket opens, and of one that nobody knows."""
    headers = {**EVENTS, "Referer": f"https://progress.example.org/api/stream?ticket={TICKET}"}
    paths = [*opened_by_tickets(), "/api/stream", "/metrics"]
    told = [client.get(f"{path}?ticket={TICKET}", headers=headers).status_code for path in paths]
    client.get("/the-last")
    return told


@pytest.mark.parametrize("status", [None, 429, 502, 503, 504])
def test_no_log_holds_a_ticket_when_a_service_cannot_answer(
    ingress: Ingress, tmp_path: Path, status: int | None
) -> None:
    with (
        served(answering(status or 200)) as stream,
        ingress(stream if status else nobody(), controller_options()) as us,
    ):
        assert set(ask_everything(us)) == {200, 404, 502} | ({status} - {None})
        found = written(tmp_path)

    assert TICKET not in found
    assert "ticket" not in found
    # it did write, of the errors that went to others
    lines = map(json.loads, (tmp_path / "ingress" / "access.log").read_text().splitlines())
    assert ("/", "200") in {(line["path"], line["status"]) for line in lines}


def test_it_would_without_the_options_of_the_controller(ingress: Ingress, tmp_path: Path) -> None:
    """Though the log is off for these addresses: which shows that this nginx does as ingress-nginx does."""
    with ingress(nobody(), DEFAULTS) as us:
        ask_everything(us)
        found = written(tmp_path)

    assert TICKET in (tmp_path / "ingress" / "error.log").read_text()
    assert re.search(rf"GET /api/batches/{ID}/stream\?ticket={re.escape(TICKET)} HTTP/1.1. 200", found)
    assert not re.search(rf"GET /api/jobs/{ID}/artifacts\?ticket={re.escape(TICKET)} HTTP/1.1. 502", found)
