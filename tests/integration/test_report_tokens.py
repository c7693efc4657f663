"""Tokens that report one batch's progress: what they open, and what they do not."""

import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt
import pytest
from msgspec.structs import replace

from infra.web import Web
from services.api.app import create_app as create_api
from services.stream.app import create_app as create_stream
from shared.auth import REPORT_TOKEN_TTL, issue_report_token, issue_ticket, issue_token, verify_token
from shared.settings import Settings
from tests.support.batches import OWNER
from tests.support.elsewhere import Run, external, reporter
from tests.support.openapi import OPENAPI
from tests.support.web import assert_problem, client, decoded, rehearsal, served, submit

BATCH = "/api/batches/{id}"
OPENED = {("GET", BATCH), ("GET", f"{BATCH}/jobs"), ("GET", "/api/jobs/{id}"), ("POST", "/api/jobs/{id}/report")}
OTHERS = [
    (method.upper(), path)
    for path, methods in OPENAPI["paths"].items()
    for method in methods
    if path.startswith("/api/") and (method.upper(), path) not in OPENED
]


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with served(Web(create_api(settings), create_stream(settings))) as address:
        yield address


@pytest.fixture
def batch(anna: httpx.Client) -> dict[str, Any]:
    return submit(anna, external(2))


@pytest.fixture
def program(address: str, batch: dict[str, Any]) -> Iterator[httpx.Client]:
    """Who has the token that came with the batch."""
    with reporter(address, batch["reportToken"]) as program:
        yield program


def ids(api: httpx.Client, batch: dict[str, Any]) -> list[str]:
    return [job["id"] for job in decoded(api.get(f"/api/batches/{batch['batchId']}/jobs"))["items"]]


def test_a_program_with_nothing_but_the_token_finds_its_job_and_reports_it(
    program: httpx.Client, batch: dict[str, Any]
) -> None:
    assert decoded(program.get(f"/api/batches/{batch['batchId']}"))["title"] == batch["title"]
    first, _ = ids(program, batch)
    assert Run(program, first).tell({"type": "start"}, {"type": "complete"})["status"] == "COMPLETED"
    assert decoded(program.get(f"/api/jobs/{first}"))["status"] == "COMPLETED"


def test_it_opens_nothing_else(program: httpx.Client, batch: dict[str, Any]) -> None:
    first, _ = ids(program, batch)
    assert len(OTHERS) > 15
    for method, path in OTHERS:
        place = path.format(id=first if "/jobs/" in path else batch["batchId"], artifact=uuid4())
        reply = program.request(method, place)
        assert reply.status_code == 401, (method, path)
        assert batch["reportToken"] not in reply.text
    for path in ("stream", "changes", "logs"):  # nor is it a ticket
        with httpx.Client(base_url=program.base_url, trust_env=False) as stranger:
            address = f"/api/batches/{batch['batchId']}/{path}?ticket={batch['reportToken']}"
            assert_problem(stranger.get(address), 401, "unauthenticated")


def test_nor_another_batch_of_the_same_owner(program: httpx.Client, anna: httpx.Client) -> None:
    other = submit(anna, external())
    (job,) = ids(anna, other)
    for path in (f"/api/batches/{other['batchId']}", f"/api/batches/{other['batchId']}/jobs", f"/api/jobs/{job}"):
        assert_problem(program.get(path), 404, "not_found")
    assert_problem(Run(program, job).post({"type": "start"}), 404, "not_found")
    assert Run(anna, job).say("start")["status"] == "PROCESSING"
    # somebody else's job and one that there is none of are told apart by nobody
    assert_problem(program.get(f"/api/jobs/{uuid4()}"), 404, "not_found")


def test_it_is_of_no_use_once_the_batch_is_deleted(
    program: httpx.Client, anna: httpx.Client, batch: dict[str, Any]
) -> None:
    first, _ = ids(program, batch)
    anna.post(f"/api/batches/{batch['batchId']}/cancel")
    assert anna.delete(f"/api/batches/{batch['batchId']}").status_code == 204
    for path in (f"/api/batches/{batch['batchId']}", f"/api/jobs/{first}"):
        assert_problem(program.get(path), 404, "not_found")
    assert_problem(Run(program, first).post({"type": "start"}), 404, "not_found")


def test_another_token_can_be_had_while_the_batch_is_unfinished(
    address: str, settings: Settings, anna: httpx.Client, batch: dict[str, Any]
) -> None:
    path = f"/api/batches/{batch['batchId']}/report-tokens"
    reply = anna.post(path, json={})
    assert reply.status_code == 201
    said = decoded(reply)
    payload = jwt.decode(said["token"], options={"verify_signature": False})
    assert abs(payload["exp"] - time.time() - REPORT_TOKEN_TTL) < 60
    with reporter(address, said["token"]) as program:
        first, _ = ids(program, batch)
        assert Run(program, first).tell({"type": "start"}, {"type": "complete"})["attempt"] == 1
    for scope, status in (("read", 403), ("report", 403), ("write", 201)):
        with client(address, settings, scope=scope) as holder:
            assert holder.post(path).status_code == status, scope
    with client(address, settings, "ben") as ben:
        assert_problem(ben.post(path), 404, "not_found")
    assert_problem(anna.post(f"/api/batches/{uuid4()}/report-tokens"), 404, "not_found")
    ours = submit(anna, rehearsal())
    assert "reportToken" not in ours
    assert_problem(anna.post(f"/api/batches/{ours['batchId']}/report-tokens"), 409, "conflict")
    anna.post(f"/api/batches/{batch['batchId']}/cancel")
    assert_problem(anna.post(path), 409, "conflict")


def test_a_creation_that_is_repeated_hands_one_out_again(address: str, anna: httpx.Client) -> None:
    for status in (201, 200):
        reply = anna.post("/api/batches", json=external(), headers={"Idempotency-Key": "once"})
        assert reply.status_code == status
        with reporter(address, decoded(reply)["reportToken"]) as program:
            assert len(ids(program, decoded(reply))) == 1


@pytest.mark.parametrize(
    ("scope", "status"),
    [(None, 200), ("report", 200), ("read report", 200), ("admin", 200), ("write", 403), ("read", 403), ("", 403)],
)
def test_a_users_token_reports_if_its_scope_says_so(
    address: str, settings: Settings, anna: httpx.Client, batch: dict[str, Any], scope: str | None, status: int
) -> None:
    first, _ = ids(anna, batch)
    with client(address, settings, scope=scope) as holder:
        reply = Run(holder, first).post({"type": "start"})
        assert reply.status_code == status
        if status == 403:
            assert "`report`" in assert_problem(reply, 403, "forbidden")["detail"]


def test_what_is_no_report_token_is_refused(
    address: str, settings: Settings, anna: httpx.Client, batch: dict[str, Any]
) -> None:
    batch_id = UUID(batch["batchId"])
    first, _ = ids(anna, batch)
    ours = {"sub": OWNER, "batch": str(batch_id), "aud": "headway-report", "exp": time.time() + 60}
    typ = {"typ": "headway-report+jwt"}

    def signed(key: str = settings.ticket_key, headers: dict[str, str] | None = typ, **claims: Any) -> str:
        payload = {name: value for name, value in {**ours, **claims}.items() if value is not None}
        return jwt.encode(payload, key, algorithm="HS256", headers=headers)

    users = issue_token(settings, OWNER)
    wrong = {
        "expired": signed(exp=time.time() - 1),
        "unbound": signed(batch=None),
        "bound to nothing": signed(batch="all"),
        "bound to a number": signed(batch=7),
        "endless": signed(exp=None),
        "nobody's": signed(sub=None),
        "a ticket's audience": signed(aud="headway-ticket"),
        "a user's audience": signed(aud=settings.audience),
        "no audience": signed(aud=None),
        "signed with the users' secret": signed(str(settings.secret)),
        "signed by a stranger": signed("another key, of 32 bytes or more, of a stranger"),
        "without its type": signed(headers=None),
        "unsigned": jwt.encode(ours, "", algorithm="none", headers=typ),
        "a ticket": issue_ticket(settings, verify_token(settings, users), batch_id)[0],
        "long": signed(more="x" * 9000),
        "half": batch["reportToken"][:-20],
        "noise": "x.y.z",
    }
    for what, token in wrong.items():
        with reporter(address, token) as program:
            for reply in (
                program.get(f"/api/batches/{batch_id}"),
                program.get(f"/api/batches/{batch_id}/jobs"),
                program.get(f"/api/jobs/{first}"),
                Run(program, first).post({"type": "start"}),
            ):
                assert reply.status_code == 401, what
                assert_problem(reply, 401, "unauthenticated")
                assert token not in reply.text
    with reporter(address, signed()) as program:
        assert Run(program, first).say("start")["status"] == "PROCESSING", "the only difference is what was wrong"


def test_it_is_taken_while_its_key_is_the_old_one(settings: Settings, anna: httpx.Client) -> None:
    batch = submit(anna, external())
    rotated = replace(settings, ticket_key="a new key, of 32 bytes or more, as all", ticket_key_old=settings.ticket_key)
    for now, status in ((rotated, 200), (replace(rotated, ticket_key_old=None), 401)):
        with served(create_api(now)) as address, reporter(address, batch["reportToken"]) as program:
            assert program.get(f"/api/batches/{batch['batchId']}").status_code == status


def test_users_whose_keys_are_elsewhere_have_such_tokens_all_the_same(settings: Settings, anna: httpx.Client) -> None:
    batch = submit(anna, external())
    # nothing answers there: whose token is ours needs no such key
    elsewhere = replace(settings, secret=None, jwks_url="http://127.0.0.1:9/keys")
    token, _ = issue_report_token(elsewhere, OWNER, UUID(batch["batchId"]))
    with served(create_api(elsewhere)) as address, reporter(address, token) as program:
        first = ids(program, batch)[0]
        assert Run(program, first).say("start")["status"] == "PROCESSING"
        assert_problem(program.get("/api/batches"), 401, "unauthenticated")
