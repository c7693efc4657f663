"""Which token, and which ticket, opens which address of both services."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from infra.web import Web
from services.api.app import create_app as create_api
from services.stream.app import create_app as create_stream
from shared.settings import Settings
from tests.support.web import assert_problem, client, decoded, served, submit

BATCH = "/api/batches/{batch}"
OPENED_BY_TICKET = [f"{BATCH}/stream", f"{BATCH}/changes", f"{BATCH}/logs"]
READING = [
    ("GET", "/api/kinds"),
    ("GET", "/api/batches"),
    ("GET", BATCH),
    ("GET", f"{BATCH}/jobs"),
    ("GET", f"{BATCH}/timeline"),
    ("GET", "/api/jobs/{job}"),
    ("POST", f"{BATCH}/tickets"),
    *(("GET", path) for path in OPENED_BY_TICKET),
]
WRITING = [
    ("POST", "/api/batches"),
    ("POST", "/api/uploads"),
    *(("POST", f"{BATCH}/{verb}") for verb in ("pause", "resume", "retry-failed", "cancel")),
    *(("POST", f"{BATCH}/{verb}") for verb in ("jobs", "close", "report-tokens")),
    ("POST", "/api/jobs/{job}/cancel"),
    ("POST", "/api/jobs/{job}/retry"),
    ("DELETE", BATCH),
]


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with served(Web(create_api(settings), create_stream(settings))) as address:
        yield address


@pytest.fixture
def created(address: str, settings: Settings) -> dict[str, Any]:
    with client(address, settings) as anna:
        batch = submit(anna)
        job = decoded(anna.get(f"/api/batches/{batch['batchId']}/jobs"))["items"][0]
    return {"batch": batch["batchId"], "job": job["id"], "ticket": batch["streamUrl"].partition("ticket=")[2]}


def ask(asking: httpx.Client, method: str, path: str, **parameters: str) -> httpx.Response:
    """The reply, without a body where that is a stream, which does not end."""
    with asking.stream(method, path, params=parameters) as reply:
        if not reply.headers.get("content-type", "").startswith("text/event-stream"):
            reply.read()
        return reply


@pytest.mark.parametrize(
    ("scope", "reads", "writes"),
    [("", False, False), ("report openid", False, False), ("write", False, True), ("read", True, False)],
)
def test_a_token_opens_what_its_scope_says(
    address: str, settings: Settings, created: dict[str, Any], scope: str, *, reads: bool, writes: bool
) -> None:
    with client(address, settings, scope=scope) as holder:
        for requests, allowed, word in ((READING, reads, "read"), (WRITING, writes, "write")):
            for method, path in requests:
                reply = ask(holder, method, path.format(**created))
                if allowed:
                    assert reply.status_code in {200, 201, 202, 204, 409, 415}, (method, path, reply.text)
                else:
                    assert f"`{word}`" in assert_problem(reply, 403, "forbidden")["detail"], (method, path)


def test_a_ticket_opens_its_batch_for_watching_and_nothing_else(address: str, created: dict[str, Any]) -> None:
    with httpx.Client(base_url=address, trust_env=False, timeout=20) as stranger:
        for path in OPENED_BY_TICKET:
            assert ask(stranger, "GET", path.format(**created), ticket=created["ticket"]).status_code == 200
            other = path.format(batch=uuid4())
            assert_problem(ask(stranger, "GET", other, ticket=created["ticket"]), 404, "not_found")
            assert_problem(ask(stranger, "GET", path.format(**created), ticket="x.y.z"), 401, "unauthenticated")
        for method, path in READING + WRITING:
            if path not in OPENED_BY_TICKET:
                reply = ask(stranger, method, path.format(**created), ticket=created["ticket"])
                assert_problem(reply, 401, "unauthenticated")
