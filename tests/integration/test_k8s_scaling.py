"""infra/k8s: the query by which KEDA counts jobs, as it stands in the manifest, on a real database."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa

from infra.embedded.postgres import Postgres
from infra.migrations.migrate import migrate
from shared import models
from shared.changes import Change
from shared.creation import Schedule
from shared.kinds import KINDS, QUEUES
from shared.settings import Settings
from tests.support.batches import cancel, job_rows, make_batch
from tests.support.claims import claim
from tests.support.manifests import Object, component, given, of_kind, ours, overlay, secrets
from tests.support.ports import own_port
from tests.support.writer import Writer

GUIDE = Path(__file__).parents[2] / "docs" / "kubernetes.md"


def scalers() -> dict[str, Object]:
    """By queue."""
    found = of_kind(overlay("production"), "ScaledObject")
    return {each["metadata"]["labels"]["headway/queue"]: each for each in found}


def query(queue: str = "default") -> str:
    (trigger,) = scalers()[queue]["spec"]["triggers"]
    assert trigger["type"] == "postgresql"
    text: str = trigger["metadata"]["query"]
    return text


def count(engine: sa.Engine, queue: str = "default") -> int:
    with engine.connect() as connection:
        ((number,),) = connection.exec_driver_sql(query(queue)).all()
    assert isinstance(number, int)
    return number


@pytest.fixture
def writers(engine: sa.Engine, settings: Settings) -> Iterator[list[Writer]]:
    made: list[Writer] = []
    yield made
    for writer in made:
        writer.close()


def test_without_any_batch_there_is_nothing(engine: sa.Engine) -> None:
    assert {queue: count(engine, queue) for queue in QUEUES} == dict.fromkeys(QUEUES, 0)


def test_what_could_run_or_runs_counts_and_what_ended_does_not(
    engine: sa.Engine, settings: Settings, writers: list[Writer]
) -> None:
    writers.append(writer := Writer(engine, settings, 6))
    assert count(engine) == 6
    with engine.begin() as connection:
        assert len(claim(connection, 2)) == 2  # reserved, about to start
    assert count(engine) == 6
    writer.start(3, 4, 5)
    writer.finish(3)
    assert count(engine) == 5
    assert count(engine, "photos") == 0


def test_a_queue_counts_its_own_only(engine: sa.Engine) -> None:
    make_batch(engine, 3, "photos.inventory", params={"photos": []})
    make_batch(engine, 2, "external")  # of no queue: others do it

    assert {queue: count(engine, queue) for queue in QUEUES} == {"default": 0, "photos": 3}


def test_paused_held_and_put_off_batches_do_not_count(engine: sa.Engine) -> None:
    first = make_batch(engine, 2)
    make_batch(engine, 3, schedule=Schedule(after=first, held=True))
    make_batch(engine, 5, schedule=Schedule(run_after=datetime.now(UTC) + timedelta(hours=1)))
    assert count(engine) == 2

    change(engine, first, Change.pause)
    assert count(engine) == 0
    change(engine, first, Change.resume)
    assert count(engine) == 2


def test_of_a_paused_or_cancelled_batch_what_still_runs_counts(
    engine: sa.Engine, settings: Settings, writers: list[Writer]
) -> None:
    writers += (paused := Writer(engine, settings, 4)), (cancelled := Writer(engine, settings, 4))
    paused.start(0)
    cancelled.start(0, 1)
    change(engine, paused.batch_id, Change.pause)
    cancel(engine, cancelled.batch_id)

    assert count(engine) == 3


def test_a_job_that_rests_counts_once_its_time_has_come(engine: sa.Engine) -> None:
    batch_id = make_batch(engine, 3)
    first, second, _ = job_rows(engine, batch_id)
    put_off(engine, batch_id, first.id, timedelta(hours=1))
    put_off(engine, batch_id, second.id, timedelta(seconds=-1))

    assert count(engine) == 2


def test_no_more_of_a_batch_counts_than_may_run_at_once(engine: sa.Engine) -> None:
    make_batch(engine, 50, concurrency=4)
    make_batch(engine, 3, concurrency=9)

    assert count(engine) == 7


def test_it_looks_at_batches_and_not_at_their_jobs(engine: sa.Engine) -> None:
    """Ten thousand jobs cost what ten do, unless they rest."""
    make_batch(engine, 10_000)
    with engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE")
        (row,) = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query()}").one()

    assert count(engine) == 10_000
    plan = row[0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 50


@pytest.fixture
def superuser(tmp_path: Path) -> Iterator[psycopg.Connection]:
    """Of a server of our own, with a migrated database: tests' usual role makes no others."""
    server = Postgres(tmp_path / "postgres", own_port(), durable=False)
    server.start()
    migrate(server.url)
    with psycopg.connect(
        host=str(tmp_path / "postgres"), port=server.port, user="postgres", dbname="headway", autocommit=True
    ) as connection:
        yield connection
    server.stop()


def test_the_documented_role_may_ask_it_and_nothing_else(superuser: psycopg.Connection) -> None:
    (block,) = re.findall(r"^```sql\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    superuser.execute(block)
    superuser.execute("SET ROLE headway_scaler")

    for queue in QUEUES:
        assert superuser.execute(query(queue)).fetchone() == (0,)
    for column in ("params FROM jobs", "metadata FROM batches", "text FROM log_lines", "owner FROM lanes"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            superuser.execute(f"SELECT {column}")


@pytest.mark.parametrize("queue", QUEUES)
def test_each_queue_has_a_scaler_that_fits_its_workers(queue: str) -> None:
    objects, scaler = overlay("production"), scalers()[queue]
    (authentication,) = of_kind(objects, "TriggerAuthentication")
    (worker,) = (each for each in ours(objects) if each["metadata"]["name"] == f"headway-worker-{queue}")
    (trigger,) = scaler["spec"]["triggers"]

    assert component(worker) == "worker"
    assert scaler["spec"]["scaleTargetRef"]["name"] == worker["metadata"]["name"]
    # the sweeper, housekeeping and listeners live in workers
    assert scaler["spec"]["minReplicaCount"] >= 1
    assert trigger["metadata"]["targetQueryValue"] == str(
        given(objects, worker).get("HEADWAY_THREADS") or Settings.__struct_defaults__[_THREADS]
    )
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    (reference,) = authentication["spec"]["secretTargetRef"]
    assert reference == {"parameter": "connection", "name": "headway-scaler", "key": "connection"}
    # not the one that may do everything
    assert reference["name"] not in {name for name, _, _ in secrets(worker)}
    assert query(queue).count("QUEUE'") == 0
    assert {kind.queue for kind in KINDS.values() if kind.queue} == set(scalers())


_THREADS = Settings.__struct_fields__.index("threads") - len(Settings.__struct_fields__)


def change(engine: sa.Engine, batch_id: UUID, method: object) -> None:
    with engine.begin() as connection:
        made = Change(connection, batch_id)
        method(made)  # type: ignore[operator]
        made.close()


def put_off(engine: sa.Engine, batch_id: UUID, job_id: UUID, ahead: timedelta) -> None:
    """As a retry does."""
    with engine.begin() as connection:
        connection.execute(
            sa.update(models.jobs).where(models.jobs.c.id == job_id).values(run_after=datetime.now(UTC) + ahead)
        )
        connection.execute(
            sa.update(models.batches)
            .where(models.batches.c.id == batch_id)
            .values(delayed=models.batches.c.delayed + 1)
        )
