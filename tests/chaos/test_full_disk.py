"""No space left: for uploads, for PostgreSQL while a batch runs and is watched, and for what services say."""

from pathlib import Path

import httpx
import psycopg
import sqlalchemy as sa
from msgspec import structs

from shared import models
from shared.settings import Settings
from tests.support.batches import wait_for
from tests.support.ordeal import PATIENCE, Ordeal, ordeal
from tests.support.ports import own_port
from tests.support.processes import service
from tests.support.small_disk import SmallDisk, on_small_disk
from tests.support.small_postgres import SmallPostgres
from tests.support.streams import status
from tests.support.web import assert_problem, client, decoded, rehearsal, submit


def test_an_upload_for_which_there_is_no_space_leaves_nothing(settings: Settings, engine: sa.Engine) -> None:
    settings = structs.replace(settings, port=own_port())
    address = f"http://127.0.0.1:{settings.port}"
    within = on_small_disk(settings.uploads, 2**20)
    with service("services.api", settings=settings, within=within) as process, client(address, settings) as anna:
        wait_for(lambda: status(address, "/health/ready") == 200 or process.poll() is not None, "the api to answer", 40)
        disk = SmallDisk(process.pid, settings.uploads)
        kept = [decoded(_upload(anna, 300_000))["uploadId"]]

        assert_problem(_upload(anna, 900_000), 507, "disk_full")
        assert _uploads(engine, disk) == kept
        disk.fill()
        for size in (1, 300_000, 900_000):
            assert_problem(_upload(anna, size), 507, "disk_full")
        submit(anna)
        assert status(address, "/health/ready") == 200
        disk.clear()
        assert _uploads(engine, disk) == kept

        kept += [decoded(_upload(anna, 300_000))["uploadId"], decoded(_upload(anna, 1))["uploadId"]]
        assert _uploads(engine, disk) == sorted(kept)
        assert (disk.path / kept[1]).stat().st_size == 300_000


def test_nothing_is_lost_when_the_disk_of_the_database_is_full(settings: Settings, tmp_path: Path) -> None:
    postgres = SmallPostgres(tmp_path / "postgres")
    with (
        ordeal(settings, tmp_path, own_postgres=lambda _: postgres, with_api=True, jobs=24) as batch,
        client(batch.whole.api_address, batch.whole.settings) as api,
    ):
        batch.gets_on()
        postgres.disk.fill()
        large = rehearsal(jobs=2000, params={"steps": 1})
        reply = wait_for(lambda: _refused(api, large), "a refusal", PATIENCE)
        assert_problem(reply, 507, "disk_full")
        wait_for(lambda: _noticed(batch), "a worker to notice", PATIENCE)
        assert api.get(f"/api/batches/{batch.batch_id}").status_code == 200
        postgres.disk.clear()
        batch.gets_on()
        api.post("/api/batches", json=rehearsal()).raise_for_status()

        # what is worse: its log has no space either, without which it does not go on
        postgres.disk.fill()
        _use_up_the_log(batch)
        reply = wait_for(lambda: _refused(api, large), "a refusal", PATIENCE)
        assert reply.status_code in {503, 507}, reply.text
        postgres.disk.clear()
        batch.gets_on()
        batch.verdict(expired=True)


def test_services_go_on_when_nothing_can_be_written_about_it(settings: Settings, tmp_path: Path) -> None:
    with ordeal(settings, tmp_path, with_api=True, jobs=24, errors=Path("/dev/full")) as batch:
        batch.gets_on()
        batch.whole.valkey.kill()  # of which all have something to say
        batch.gets_on()
        batch.whole.valkey.start()
        batch.gets_on()
        batch.verdict()
        assert not batch.whole.said(), "something could be written"


def _upload(anna: httpx.Client, size: int) -> httpx.Response:
    return anna.post("/api/uploads", files={"file": ("x", b"x" * size)})


def _uploads(engine: sa.Engine, disk: SmallDisk) -> list[str]:
    """By the database; and they are those for which there are files."""
    with engine.connect() as connection:
        known = sorted(str(id_) for id_ in connection.execute(sa.select(models.uploads.c.id)).scalars())
    assert sorted(path.name for path in disk.path.iterdir() if path.name != "filler") == known
    return known


def _refused(api: httpx.Client, body: dict[str, object]) -> httpx.Response | None:
    reply = api.post("/api/batches", json=body)
    return reply if reply.is_error else None


def _noticed(batch: Ordeal) -> bool:
    return any("error=DiskFull" in worker.log.read_text() for worker in batch.whole.workers)


def _use_up_the_log(batch: Ordeal) -> None:
    """Until PostgreSQL has had enough: it ends all connections."""
    with psycopg.connect(batch.whole.settings.database_url, autocommit=True) as connection:
        try:
            for _ in range(100):
                connection.execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))")
        except psycopg.OperationalError:
            return
    raise AssertionError("there was space for 100 MB")
