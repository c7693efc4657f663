"""Batches over HTTP, as docs/protocol.md has them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import redis
import sqlalchemy as sa
from msgspec import structs

from services.api.app import create_app
from shared import models
from shared.auth import issue_token, verify_ticket
from shared.channels import batch_channel, decode_frame
from shared.creation import TICKETS
from shared.events import Delta
from shared.kinds import KINDS, QUEUES
from shared.queue import make_broker, waiting_tickets
from shared.settings import Settings
from tests.support.batches import assert_consistent, batch_row, job_rows, make_batch, wait_for
from tests.support.processes import worker
from tests.support.web import assert_problem, client, decoded, rehearsal, served, submit, wrong_paths

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with served(create_app(settings)) as address:
        yield address


@pytest.fixture
def bert(address: str, settings: Settings) -> Iterator[httpx.Client]:
    with client(address, settings, "bert") as bert:
        yield bert


def test_a_batch_is_created_and_read(anna: httpx.Client, settings: Settings) -> None:
    body = rehearsal(2, title="Salon", metadata={"order": 7, "tags": ["a", None, {"b": 1.5}]}, priority=5)
    reply = anna.post("/api/batches", json=body)
    batch = decoded(reply)
    batch_id = UUID(batch["batchId"])
    assert reply.status_code == 201
    assert reply.headers["location"] == f"/api/batches/{batch_id}"
    assert reply.headers["cache-control"] == "no-store"
    assert batch_id.version == 7
    stream_url, web_url = batch.pop("streamUrl"), batch.pop("webUrl")
    assert TIME.fullmatch(batch.pop("createdAt"))
    assert batch == {
        "batchId": str(batch_id),
        "kind": "rehearsal",
        "title": "Salon",
        "owner": "anna",
        "status": "QUEUED",
        "version": 1,
        "progress": 0,
        "counts": {"queued": 2, "processing": 0, "completed": 0, "failed": 0, "cancelled": 0, "total": 2},
        "waiting": None,
        "etaSeconds": None,
        "cancelRequested": False,
        "metadata": body["metadata"],
        "summary": None,
        "startedAt": None,
        "finishedAt": None,
        "etaLow": None,
        "etaHigh": None,
        "open": False,
        "runAfter": None,
        "after": None,
        "expiresAt": None,
    }
    ticket = stream_url.removeprefix(f"/api/batches/{batch_id}/stream?ticket=")
    assert verify_ticket(settings, ticket).batch_id == batch_id
    assert web_url == f"/batches/{batch_id}#ticket={ticket}"
    read = decoded(anna.get(f"/api/batches/{batch_id}"))
    assert read.pop("createdAt")
    assert read == batch | {"waiting": {"reason": "no_worker"}}, "and nobody is there to start it"


def test_addresses_are_absolute_where_the_public_one_is_known(settings: Settings) -> None:
    public = structs.replace(settings, public_url="https://headway.example/")
    with served(create_app(public)) as address, client(address, public) as anna:
        reply = anna.post("/api/batches", json=rehearsal())
        batch = decoded(reply)
    base = "https://headway.example"
    assert reply.headers["location"] == f"{base}/api/batches/{batch['batchId']}"
    assert batch["streamUrl"].startswith(f"{base}/api/batches/{batch['batchId']}/stream?ticket=")
    assert batch["webUrl"].startswith(f"{base}/batches/{batch['batchId']}#ticket=")


def test_creating_wakes_workers_once_for_many_jobs(anna: httpx.Client, settings: Settings) -> None:
    broker = make_broker(settings.redis_url, settings.namespace, QUEUES)
    submit(anna, rehearsal(3))
    assert waiting_tickets(broker, "default") == 3
    submit(anna, rehearsal(10_000))
    assert waiting_tickets(broker, "default") == 3 + TICKETS
    broker.close()


def test_parameters_are_kept_as_they_were_given(anna: httpx.Client, engine: sa.Engine) -> None:
    batch = submit(anna, rehearsal(params={"stepMs": 0, "failAtStep": None}))
    (row,) = job_rows(engine, UUID(batch["batchId"]))
    job = decoded(anna.get(f"/api/jobs/{row.id}"))
    assert job["params"] == {"stepMs": 0, "failAtStep": None}
    assert (job["name"], job["position"], job["attempts"], job["result"]) == ("job 0", 0, [], None)


def test_numbers_and_texts_that_are_hard_to_keep_come_back(anna: httpx.Client) -> None:
    metadata = {"big": 2**63, "bigger": 10**300, "small": 1e-300, "float": 1e300, "text": "ä😀\u2028\\u0000\\", "": ""}
    batch = submit(anna, rehearsal(metadata=metadata, title="😀" * 200))
    read = decoded(anna.get(f"/api/batches/{batch['batchId']}"))
    # the same number, but PostgreSQL writes it out
    read["metadata"]["float"] = float(read["metadata"]["float"])
    assert read["metadata"] == metadata
    assert read["title"] == "😀" * 200


def test_lists_are_paged_newest_first(anna: httpx.Client, bert: httpx.Client) -> None:
    ids = [submit(anna, rehearsal(title=f"batch {number}"))["batchId"] for number in range(5)]
    submit(bert)
    seen: list[str] = []
    query: dict[str, str] = {"limit": "2"}
    for shown in (2, 2, 1):
        page = decoded(anna.get("/api/batches", params=query))
        assert len(page["items"]) == shown
        seen += [item["batchId"] for item in page["items"]]
        query["cursor"] = page["nextCursor"]
    assert query["cursor"] is None
    assert seen == ids[::-1]


def test_lists_are_filtered(anna: httpx.Client) -> None:
    salon, kitchen = submit(anna, rehearsal(title="Salon 100%")), submit(anna, rehearsal(title="Kitchen"))
    anna.post(f"/api/batches/{kitchen['batchId']}/cancel")

    def found(**query: str) -> list[str]:
        return [item["batchId"] for item in decoded(anna.get("/api/batches", params=query))["items"]]

    both = [kitchen["batchId"], salon["batchId"]]
    assert found() == found(q="") == found(kind="rehearsal") == both
    assert found(q="sALOn") == found(q="0%") == found(status="QUEUED") == both[1:]
    assert found(status="CANCELLED", q="kit", kind="rehearsal") == both[:1]
    assert found(kind="photos.inventory") == found(q="_") == []


def test_jobs_are_listed_by_position(anna: httpx.Client, engine: sa.Engine) -> None:
    batch = submit(anna, rehearsal(7))
    path = f"/api/batches/{batch['batchId']}/jobs"
    first = decoded(anna.get(path, params={"limit": 5}))
    rest = decoded(anna.get(path, params={"limit": 5, "cursor": first["nextCursor"]}))
    assert [job["position"] for job in first["items"] + rest["items"]] == list(range(7))
    assert rest["nextCursor"] is None
    assert first["items"][0] == {
        "id": str(job_rows(engine, UUID(batch["batchId"]))[0].id),
        "position": 0,
        "name": "job 0",
        "status": "QUEUED",
        "progress": 0,
        "step": None,
        "message": None,
        "items": None,
        "attempt": 0,
        "cancelRequested": False,
        "runAfter": None,
        "error": None,
        "startedAt": None,
        "finishedAt": None,
        "metadata": {},
    }
    assert len(decoded(anna.get(path, params={"status": "QUEUED"}))["items"]) == 7
    assert decoded(anna.get(path, params={"status": "FAILED"}))["items"] == []
    other = submit(anna)
    reply = anna.get(f"/api/batches/{other['batchId']}/jobs", params={"cursor": first["nextCursor"]})
    assert_problem(reply, 400, "malformed")


def test_a_job_tells_its_attempts(anna: httpx.Client, settings: Settings, engine: sa.Engine, tmp_path: Path) -> None:
    params = {"steps": 1, "stepMs": 0, "failAtStep": 1, "failAttempts": 1, "failure": "retryable"}
    batch_id = submit(anna, rehearsal(params=params))["batchId"]
    with worker(settings, tmp_path):
        wait_for(lambda: decoded(anna.get(f"/api/batches/{batch_id}"))["finishedAt"], "the batch to finish")
    job = decoded(anna.get(f"/api/jobs/{job_rows(engine, UUID(batch_id))[0].id}"))
    assert (job["status"], job["attempt"], job["result"]) == ("COMPLETED", 2, {"steps": 1, "attempt": 2})
    first, second = job["attempts"]
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert set(first["error"]) == {"code", "message"}
    assert second["error"] is None
    times = [first["startedAt"], first["finishedAt"], second["startedAt"], second["finishedAt"]]
    assert all(map(TIME.fullmatch, times))
    assert times == sorted(times)
    assert second["startedAt"][:-4] == job["startedAt"][:-4]
    finished = decoded(anna.get(f"/api/batches/{batch_id}"))
    assert finished["summary"] == {"jobs": 1, "steps": 1}
    assert_problem(anna.post(f"/api/batches/{batch_id}/cancel"), 409, "conflict")


def test_what_is_somebody_elses_is_not_there(anna: httpx.Client, bert: httpx.Client, engine: sa.Engine) -> None:
    batch = submit(anna)
    job = job_rows(engine, UUID(batch["batchId"]))[0].id
    for batch_id, job_id in ((batch["batchId"], job), (uuid4(), uuid4()), ("x", "1")):
        for path in (f"/api/batches/{batch_id}", f"/api/batches/{batch_id}/jobs", f"/api/jobs/{job_id}"):
            assert_problem(bert.get(path), 404, "not_found")
        for action in ("cancel", "tickets"):
            assert_problem(bert.post(f"/api/batches/{batch_id}/{action}"), 404, "not_found")
    assert decoded(bert.get("/api/batches")) == {"items": [], "nextCursor": None}
    assert batch_row(engine, UUID(batch["batchId"])).status == "QUEUED"


def test_a_cancel_ends_what_is_queued_and_tells_readers(
    anna: httpx.Client, settings: Settings, engine: sa.Engine
) -> None:
    batch_id = UUID(submit(anna, rehearsal(3))["batchId"])
    listener = redis.Redis.from_url(settings.redis_url).pubsub(ignore_subscribe_messages=False)
    listener.subscribe(batch_channel(settings.namespace, batch_id))
    assert listener.get_message(timeout=5)["type"] == "subscribe"
    reply = anna.post(f"/api/batches/{batch_id}/cancel")
    batch = decoded(reply)
    assert reply.status_code == 202
    assert (batch["status"], batch["version"], batch["counts"]["cancelled"]) == ("CANCELLED", 2, 3)
    frame: Any = decode_frame(listener.get_message(timeout=5)["data"])
    assert (frame[0].since, frame[0].to) == (1, 2)
    assert frame[1] is None or isinstance(frame[1], Delta)
    listener.close()
    again = anna.post(f"/api/batches/{batch_id}/cancel", json={})
    assert (again.status_code, decoded(again)) == (202, batch)
    assert_consistent(engine, batch_id)


def test_a_cancel_waits_for_running_jobs(
    anna: httpx.Client, settings: Settings, engine: sa.Engine, tmp_path: Path
) -> None:
    batch_id = submit(anna, rehearsal(2, params={"steps": 1000, "stepMs": 20}, concurrency=1))["batchId"]
    path = f"/api/batches/{batch_id}"
    with worker(settings, tmp_path):
        wait_for(lambda: decoded(anna.get(path))["counts"]["processing"], "a job to run")
        first = decoded(anna.post(f"{path}/cancel"))
        assert first["cancelRequested"]
        assert first["counts"]["queued"] == 0
        second = anna.post(f"{path}/cancel")
        assert second.status_code == 202
        wait_for(lambda: decoded(anna.get(path))["status"] == "CANCELLED", "the batch to end")
    assert_consistent(engine, UUID(batch_id))


def test_a_ticket_is_for_one_batch_and_lives_no_longer_than_its_token(
    anna: httpx.Client, address: str, settings: Settings
) -> None:
    batch_id = submit(anna)["batchId"]
    with client(address, settings, scope="read") as reader:
        reply = reader.post(f"/api/batches/{batch_id}/tickets")
    said = decoded(reply)
    assert reply.status_code == 201
    assert said["streamUrl"] == f"/api/batches/{batch_id}/stream?ticket={said['ticket']}"
    assert TIME.fullmatch(said["expiresAt"])
    claims = verify_ticket(settings, said["ticket"])
    assert (claims.owner, claims.batch_id) == ("anna", UUID(batch_id))
    short = issue_token(settings, "anna", ttl=60)
    reply = anna.post(f"/api/batches/{batch_id}/tickets", headers={"Authorization": f"Bearer {short}"})
    assert verify_ticket(settings, decoded(reply)["ticket"]).expires < claims.expires - 3000
    # a ticket opens streams, not this
    assert_problem(httpx.get(f"{address}/api/batches/{batch_id}?ticket={said['ticket']}"), 401, "unauthenticated")
    bearer = {"Authorization": f"Bearer {said['ticket']}"}
    assert_problem(anna.get(f"/api/batches/{batch_id}", headers=bearer), 401, "unauthenticated")


def test_kinds_say_what_they_take(anna: httpx.Client) -> None:
    page = decoded(anna.get("/api/kinds"))
    assert page["nextCursor"] is None
    assert [kind["kind"] for kind in page["items"]] == sorted(KINDS)
    said = {kind["kind"]: kind for kind in page["items"]}["rehearsal"]
    assert set(said) == {"kind", "title", "schema", "maxAttempts", "timeLimitSeconds"}
    assert (said["maxAttempts"], said["timeLimitSeconds"]) == (3, 600)
    assert said["schema"]["$defs"]["Rehearsal"]["properties"]["stepMs"]["maximum"] == 600_000
    first = decoded(anna.get("/api/kinds", params={"limit": 1}))
    rest = decoded(anna.get("/api/kinds", params={"cursor": first["nextCursor"]}))
    assert first["items"] + rest["items"] == page["items"]


def photos(*uploads: Any) -> dict[str, Any]:
    jobs = [{"name": f"{number}.jpg", "params": {"uploadId": str(upload)}} for number, upload in enumerate(uploads)]
    return {"kind": "photos.inventory", "title": "Salon", "jobs": jobs}


def upload(api: httpx.Client) -> str:
    reply = api.post("/api/uploads", files={"file": ("a.jpg", b"\xff\xd8\xff")})
    assert reply.status_code == 201, reply.text
    return str(decoded(reply)["uploadId"])


def test_a_batch_uses_uploads_of_its_owner_only(anna: httpx.Client, bert: httpx.Client, engine: sa.Engine) -> None:
    mine, hers, nobodys = upload(anna), upload(bert), uuid4()
    body = photos(mine, hers, mine, nobodys)
    reply = anna.post("/api/batches", json=body)
    assert wrong_paths(reply) == ["jobs[1].params.uploadId", "jobs[3].params.uploadId"]
    messages = {error["message"] for error in decoded(reply)["errors"]}
    assert len(messages) == 1, "it can be told whether somebody else's exists"
    body["jobs"].append({"name": "x", "params": {"uploadId": 7}})
    assert wrong_paths(anna.post("/api/batches", json=body)) == [
        "jobs[4].params.uploadId",
        "jobs[1].params.uploadId",
        "jobs[3].params.uploadId",
    ]
    table = models.uploads
    with engine.connect() as connection:
        assert connection.execute(sa.select(table.c.expires_at).where(table.c.id == mine)).scalar_one() is not None
    submit(anna, photos(mine, mine))
    submit(anna, photos(mine))
    with engine.connect() as connection:
        assert connection.execute(sa.select(table.c.expires_at).where(table.c.id == mine)).scalar_one() is None


def test_a_large_batch_is_stored_at_once(anna: httpx.Client, engine: sa.Engine) -> None:
    batch_id = UUID(submit(anna, rehearsal(10_000))["batchId"])
    assert batch_row(engine, batch_id).queued == 10_000
    assert_consistent(engine, batch_id)
    page = decoded(anna.get(f"/api/batches/{batch_id}/jobs", params={"limit": 1000}))
    assert len(page["items"]) == 1000


def test_a_kind_that_is_no_longer_known_can_still_be_read(anna: httpx.Client, engine: sa.Engine) -> None:
    batch_id = make_batch(engine, kind=structs.replace(KINDS["rehearsal"], name="retired"))
    assert decoded(anna.get(f"/api/batches/{batch_id}"))["kind"] == "retired"
    assert decoded(anna.post(f"/api/batches/{batch_id}/cancel"))["status"] == "CANCELLED"
