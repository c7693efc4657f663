"""`Idempotency-Key`: whatever goes wrong between, the same request makes one batch."""

import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
import sqlalchemy as sa

from services.api.app import create_app
from services.worker.housekeeping import Housekeeping
from shared import models
from shared.channels import Publisher
from shared.files import make_files
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.support.batches import make_batch, wait_for
from tests.support.processes import service
from tests.support.web import assert_problem, client, decoded, rehearsal, served, wrong_paths

UPLOAD = {"files": {"file": ("a.jpg", b"\xff\xd8\xff\xe0 not much of a photo")}}


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with served(create_app(settings)) as address:
        yield address


def create(api: httpx.Client, key: str, body: dict[str, Any] | None = None) -> httpx.Response:
    return api.post("/api/batches", json=body or rehearsal(3), headers={"Idempotency-Key": key})


def batches(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(models.batches)).scalar_one())


def test_the_same_request_gives_the_same_batch(
    anna: httpx.Client, engine: sa.Engine, address: str, settings: Settings
) -> None:
    first, second = create(anna, "one"), create(anna, "one")
    assert (first.status_code, second.status_code) == (201, 200)
    assert decoded(first)["batchId"] == decoded(second)["batchId"]
    assert second.headers["location"] == first.headers["location"]
    assert "ticket=" in decoded(second)["streamUrl"]
    spaced = msgspec.json.format(msgspec.json.encode(dict(reversed(rehearsal(3).items()))), indent=4)
    headers = {"Idempotency-Key": "one", "Content-Type": "application/json"}
    assert anna.post("/api/batches", content=spaced, headers=headers).status_code == 200, "it asks for the same"
    assert_problem(create(anna, "one", rehearsal(4)), 409, "conflict")
    assert create(anna, "two").status_code == 201
    with client(address, settings, "bert") as bert:
        assert create(bert, "one").status_code == 201, "keys are per owner"
    assert batches(engine) == 3


def test_a_refused_request_uses_no_key_up(anna: httpx.Client) -> None:
    assert create(anna, "key", rehearsal(1, {"steps": -1})).status_code == 422
    assert create(anna, "key").status_code == 201


def test_wrong_keys_are_named(anna: httpx.Client) -> None:
    for key in ("", "x" * 256, "tab\tinside"):
        assert wrong_paths(create(anna, key)) == ["Idempotency-Key"]
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert wrong_paths(anna.post("/api/batches", json=rehearsal(), headers=twice)) == ["Idempotency-Key"]
    assert create(anna, "x" * 255).status_code == 201


def test_twenty_twins_at_once_make_one_batch(anna: httpx.Client, engine: sa.Engine) -> None:
    with ThreadPoolExecutor(20) as threads:
        replies = list(threads.map(lambda _: create(anna, "twins", rehearsal(500)), range(20)))
    assert sorted(reply.status_code for reply in replies) == [200] * 19 + [201]
    assert len({decoded(reply)["batchId"] for reply in replies}) == 1
    assert batches(engine) == 1


def test_twins_with_different_bodies_make_one_batch_and_a_conflict(anna: httpx.Client, engine: sa.Engine) -> None:
    with ThreadPoolExecutor(2) as threads:
        replies = list(threads.map(lambda jobs: create(anna, "key", rehearsal(jobs)), (300, 301)))
    assert sorted(reply.status_code for reply in replies) == [201, 409]
    assert batches(engine) == 1


def test_a_replay_is_not_checked_again(anna: httpx.Client, engine: sa.Engine) -> None:
    upload = decoded(anna.post("/api/uploads", **UPLOAD))  # type: ignore[arg-type]  # httpx wants each by its own type
    body = {
        "kind": "photos.inventory",
        "title": "",
        "jobs": [{"name": "a", "params": {"uploadId": upload["uploadId"]}}],
    }
    first = create(anna, "photo", body)
    assert first.status_code == 201
    with engine.begin() as connection:
        connection.execute(sa.delete(models.upload_uses))
        connection.execute(sa.delete(models.uploads))
    assert create(anna, "other", body).status_code == 422
    again = create(anna, "photo", body)
    assert (again.status_code, decoded(again)["batchId"]) == (200, decoded(first)["batchId"])


def test_a_batch_that_was_deleted_is_not_made_again(anna: httpx.Client) -> None:
    batch_id = decoded(create(anna, "key"))["batchId"]
    assert anna.post(f"/api/batches/{batch_id}/cancel").status_code == 202
    assert anna.delete(f"/api/batches/{batch_id}").status_code == 204
    assert_problem(create(anna, "key"), 409, "conflict")


def test_a_key_is_forgotten_after_a_day(anna: httpx.Client, engine: sa.Engine, settings: Settings) -> None:
    first = decoded(create(anna, "key"))
    create(anna, "young")
    with engine.begin() as connection:
        old = sa.func.now() - sa.text("interval '24 hours 1 second'")
        table = models.idempotency_keys
        connection.execute(sa.update(table).where(table.c.key == "key").values(created_at=old))
    second = create(anna, "key", rehearsal(7))
    assert (second.status_code, decoded(second)["batchId"] == first["batchId"]) == (201, False)
    with engine.begin() as connection:
        connection.execute(sa.update(table).where(table.c.key == "key").values(created_at=old))
    with make_redis(settings.redis_url) as hints:
        Housekeeping(engine, Publisher(hints, settings.namespace), settings, make_files(settings)).round()
    with engine.connect() as connection:
        assert connection.execute(sa.select(table.c.key)).scalars().all() == ["young"]


def test_a_process_that_dies_in_the_middle_leaves_neither_batch_nor_key(
    engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    make_batch(engine)  # the schema is warm
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    changed = msgspec.structs.replace(settings, port=port)
    address, key = f"http://127.0.0.1:{port}", str(uuid4())
    with (
        service("services.api", settings=changed) as process,
        client(address, settings) as anna,
        ThreadPoolExecutor(1) as threads,
    ):
        wait_for(lambda: _answers(anna), "the api to answer")
        with engine.begin() as connection:
            connection.execute(sa.text("LOCK TABLE lanes"))  # the last thing that a creation needs
            reply = threads.submit(create, anna, key)
            wait_for(lambda: _waits_for_lanes(engine), "the creation to get as far as that")
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        with pytest.raises(httpx.HTTPError):
            reply.result()
    with service("services.api", settings=changed), client(address, settings) as anna:
        wait_for(lambda: _answers(anna), "the api to answer")
        assert create(anna, key).status_code == 201
        assert create(anna, key).status_code == 200
    assert batches(engine) == 2


def _answers(api: httpx.Client) -> bool:
    try:
        return api.get("/health/ready").status_code == 200
    except httpx.HTTPError:
        return False


def _waits_for_lanes(engine: sa.Engine) -> bool:
    query = "SELECT count(*) FROM pg_locks WHERE relation = 'lanes'::regclass AND NOT granted"
    with engine.connect() as connection:
        return bool(connection.execute(sa.text(query)).scalar_one())
