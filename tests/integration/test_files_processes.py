"""Files by real processes, in a directory and in a bucket: uploads that workers read, artifacts that come back."""

import hashlib
import http.client
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from msgspec import structs

from services.worker.housekeeping import Housekeeping
from shared import models
from shared.channels import Publisher
from shared.files import make_files
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.support.batches import job_rows, wait_finished, wait_for
from tests.support.depots import BucketDepot, Depot, depot, in_bucket
from tests.support.memory import forget_peak, held, peak
from tests.support.ports import own_port
from tests.support.processes import service, worker
from tests.support.s3_server import BUCKET, S3Server, own_s3_server, s3_server
from tests.support.streams import status
from tests.support.web import assert_problem, client, decoded

__all__ = ["depot", "own_s3_server", "s3_server"]

PHOTO = Path(__file__).parents[2] / "infra" / "demo" / "photos"
MIB = 2**20
LARGE = 25 * MIB


@pytest.fixture
def there(settings: Settings, depot: Depot) -> Settings:
    return structs.replace(settings, uploads=depot.place, max_upload=LARGE, max_artifact=LARGE)


@contextmanager
def apis(settings: Settings, number: int = 1) -> Iterator[list[httpx.Client]]:
    """The owner, at so many api processes."""
    with ExitStack() as stack:
        clients = []
        for _ in range(number):
            own = structs.replace(settings, port=own_port())
            process = stack.enter_context(service("services.api", settings=own))
            clients.append(stack.enter_context(client(f"http://127.0.0.1:{own.port}", own)))
            clients[-1].headers["x-process"] = str(process.pid)
        for api in clients:
            wait_for(lambda api=api: status(str(api.base_url), "/health/ready") == 200, "the api to answer", 40)
        yield clients


def upload(api: httpx.Client, content: bytes, name: str = "x") -> str:
    reply = api.post("/api/uploads", files={"file": (name, content)})
    assert reply.status_code == 201, reply.text
    return str(decoded(reply)["uploadId"])


def look_at(api: httpx.Client, upload_id: str) -> UUID:
    """A batch whose job reads the photo."""
    body = {"kind": "photos.inventory", "title": "x", "jobs": [{"name": "a", "params": {"uploadId": upload_id}}]}
    return UUID(decoded(api.post("/api/batches", json=body))["batchId"])


def rehearse(api: httpx.Client, *, jobs: int = 1, **params: Any) -> UUID:
    each = {"name": "a", "params": {"steps": 1, "stepMs": 0} | params}
    body = {"kind": "rehearsal", "title": "x", "jobs": [each] * jobs}
    return UUID(decoded(api.post("/api/batches", json=body))["batchId"])


def only_job(engine: sa.Engine, batch_id: UUID) -> Any:
    (job,) = job_rows(engine, batch_id)
    return job


def photo() -> bytes:
    return min(PHOTO.glob("*.jpg")).read_bytes()


def test_an_upload_to_one_api_is_read_by_a_worker_and_an_artifact_by_the_other_api(
    there: Settings, engine: sa.Engine, depot: Depot, tmp_path: Path
) -> None:
    content = photo()
    with apis(there, 2) as (one, other), worker(there, tmp_path, "photos"), worker(there, tmp_path):
        upload_id = upload(one, content)
        seen, gives = look_at(other, upload_id), rehearse(one, artifactBytes=LARGE)
        for batch_id in (seen, gives):
            wait_finished(engine, batch_id)
        result = decoded(one.get(f"/api/jobs/{only_job(engine, seen).id}"))["result"]
        assert result["file"]["bytes"] == len(content)

        job = decoded(other.get(f"/api/jobs/{only_job(engine, gives).id}"))
        (artifact,) = job["artifacts"]
        assert depot.everything() == sorted([upload_id, artifact["id"]])
        replies = [api.get(f"/api/jobs/{job['id']}/artifacts/{artifact['id']}").content for api in (one, other)]
        wanted = (b"This file says nothing, in lines of 64 bytes, as long as it is.\n" * 2**19)[:LARGE]
        assert [hashlib.sha256(reply).digest() for reply in replies] == [hashlib.sha256(wanted).digest()] * 2


def test_a_file_that_is_gone_is_missing(there: Settings, engine: sa.Engine, tmp_path: Path) -> None:
    with apis(there) as (api,), worker(there, tmp_path, "photos"):
        upload_id = upload(api, photo())
        make_files(there).remove(UUID(upload_id))
        batch_id = look_at(api, upload_id)
        wait_finished(engine, batch_id)
    job = only_job(engine, batch_id)
    assert (job.error_code, job.attempt) == ("upload_missing", 1)


def test_an_upload_that_breaks_off_leaves_nothing(there: Settings, engine: sa.Engine, depot: Depot) -> None:
    with apis(there) as (api,):
        connection = http.client.HTTPConnection(api.base_url.host, api.base_url.port, timeout=20)
        connection.putrequest("POST", "/api/uploads")
        connection.putheader("Authorization", api.headers["authorization"])
        connection.putheader("Content-Type", "multipart/form-data; boundary=b")
        connection.putheader("Content-Length", str(LARGE))
        connection.endheaders()
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        connection.send(head + b"x" * 12 * MIB)
        wait_for(depot.unfinished, "the file to be begun")
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
        wait_for(lambda: not depot.everything(), "the file to be removed")
    with engine.connect() as rows:
        assert rows.execute(sa.select(models.uploads)).all() == []


def test_many_large_ones_at_once_take_little_memory(there: Settings, depot: Depot) -> None:
    content = os.urandom(LARGE)
    with apis(there) as (api,):
        upload(api, content[: 6 * MIB])  # all that is needed is loaded by now
        pid = int(api.headers["x-process"])
        before = held(pid)
        forget_peak(pid)
        with ThreadPoolExecutor(8) as pool:
            assert len({*pool.map(lambda _: upload(api, content), range(8))}) == 8
        assert peak(pid) - before < 160 * MIB, "8 of 25 MiB would be 200 at least, and more with copies"
    assert len(depot.names()) == 9


def tidy(engine: sa.Engine, settings: Settings) -> None:
    with make_redis(settings.redis_url) as redis:
        housekeeping = Housekeeping(engine, Publisher(redis, settings.namespace), settings, make_files(settings))
        wait_for(lambda: not housekeeping.round(), "all that is due to be done")


def test_a_worker_that_is_killed_between_storing_and_recording_leaves_nothing_for_ever(
    there: Settings, engine: sa.Engine, depot: Depot, tmp_path: Path
) -> None:
    with apis(there) as (api,):
        with worker(there, tmp_path) as process:
            batch_id = rehearse(api, artifactBytes=64, steps=2, stepMs=500)
            wait_for(lambda: only_job(engine, batch_id).status == "PROCESSING", "the job to run")
            with engine.connect() as locked:
                # no change of the batch is committed meanwhile
                locked.execute(sa.select(models.batches).where(models.batches.c.id == batch_id).with_for_update())
                # our tests' patience is longer than what PostgreSQL has with idle transactions
                wait_for(lambda: locked.execute(sa.text("SELECT 1")) and depot.names(), "the artifact to be stored")
                process.send_signal(signal.SIGKILL)
                process.wait(10)
        (left,) = depot.names()
        with worker(there, tmp_path):
            wait_finished(engine, batch_id)
        (artifact,) = decoded(api.get(f"/api/jobs/{only_job(engine, batch_id).id}/artifacts"))["items"]
    assert (artifact["attempt"], depot.names()) == (2, sorted([left, artifact["id"]]))
    with engine.begin() as connection:
        day = sa.text("interval '25 hours'")
        connection.execute(sa.update(models.artifacts).values(expires_at=models.artifacts.c.expires_at - day))
    tidy(engine, there)
    assert depot.names() == [artifact["id"]]


@pytest.fixture
def own_depot(own_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> BucketDepot:
    return in_bucket(own_s3_server, monkeypatch)


def test_all_goes_on_without_the_store_and_what_waits_for_it_is_done_when_it_is_back(
    settings: Settings, engine: sa.Engine, own_depot: BucketDepot, tmp_path: Path
) -> None:
    settings = structs.replace(settings, uploads=own_depot.place)
    server = own_depot.server
    with apis(settings) as (api,):
        upload_id = upload(api, photo())
        server.stop()
        with worker(settings, tmp_path, "photos"), worker(settings, tmp_path):
            assert_problem(api.post("/api/uploads", files={"file": ("x", b"x")}), 503, "unavailable")
            assert status(str(api.base_url), "/health/ready") == 200
            reads, gives, neither = look_at(api, upload_id), rehearse(api, artifactBytes=64), rehearse(api)
            wait_finished(engine, neither)
            wait_for(lambda: only_job(engine, reads).error_code == "files_away", "the job to be put off")
            assert only_job(engine, reads).failures == 0
            wait_for(lambda: only_job(engine, gives).status == "PROCESSING", "the other to wait")
            server.start()
            for batch_id in (reads, gives):
                wait_finished(engine, batch_id)
                assert only_job(engine, batch_id).status == "COMPLETED"
            assert only_job(engine, gives).attempt == 1
        job = decoded(api.get(f"/api/jobs/{only_job(engine, gives).id}"))
        server.stop()
        path = f"/api/jobs/{job['id']}/artifacts/{job['artifacts'][0]['id']}"
        assert_problem(api.get(path), 503, "unavailable")
        assert api.delete(f"/api/batches/{gives}").status_code == 204
        tidy(engine, settings)  # removes nothing yet
        server.start()
        assert len(own_depot.names()) == 2
        tidy(engine, settings)
        assert own_depot.names() == [upload_id]


def test_a_store_that_stands_still_ends_in_an_error_and_a_cancel_ends_its_wait(
    settings: Settings, engine: sa.Engine, own_depot: BucketDepot, tmp_path: Path
) -> None:
    settings = structs.replace(settings, uploads=own_depot.place)
    with apis(settings) as (api,), worker(settings, tmp_path):
        upload(api, b"x")
        own_depot.server.freeze()
        batch_id = rehearse(api, artifactBytes=64)
        reply = api.post("/api/uploads", files={"file": ("x", b"x")}, timeout=60)
        assert_problem(reply, 503, "unavailable")
        api.post(f"/api/batches/{batch_id}/cancel").raise_for_status()
        wait_finished(engine, batch_id)
        assert only_job(engine, batch_id).status == "CANCELLED"
        own_depot.server.thaw()
        upload(api, b"x")


def test_services_start_without_the_bucket_and_use_it_once_it_is_there(
    settings: Settings, own_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    depot = in_bucket(own_s3_server, monkeypatch)
    settings = structs.replace(settings, uploads=depot.place)
    own_s3_server.client.delete_bucket(Bucket=BUCKET)
    with apis(settings) as (api,):
        assert_problem(api.post("/api/uploads", files={"file": ("x", b"x")}), 503, "unavailable")
        own_s3_server.client.create_bucket(Bucket=BUCKET)
        upload(api, b"x")
