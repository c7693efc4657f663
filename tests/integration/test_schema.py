"""A version that comes before its migration does no harm: nobody sends it requests, and it starts no jobs."""

import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from msgspec import structs

from infra.migrations.__main__ import main
from infra.migrations.migrate import Busy, alembic_config, migrate, pending
from services.api.app import create_app
from shared.schema import REVISION, is_behind
from shared.settings import Settings
from tests.support.batches import job_rows, wait_finished, wait_for
from tests.support.processes import service
from tests.support.streams import health, status, stream_thread
from tests.support.web import served
from tests.support.working import submit

OLDER = "0003"
NEWER = "9999"


@pytest.fixture
def at(database_url: str) -> Iterator[psycopg.Connection[object]]:
    """For `SET_TO`: the revision is all that these tests change, which is all that anybody looks at."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


SET_TO = "UPDATE alembic_version SET version_num = %s"


def test_the_revision_that_the_code_needs_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == REVISION
    assert not is_behind(REVISION)
    assert not is_behind(NEWER)
    assert is_behind(OLDER)
    assert is_behind(None)


def test_api_and_stream_are_not_ready_before_the_migration(settings: Settings, at: psycopg.Connection[object]) -> None:
    with served(create_app(settings)) as api, stream_thread(settings) as (stream, _):
        for revision, code, schema in ((OLDER, 503, "behind"), (NEWER, 200, "ok"), (REVISION, 200, "ok")):
            at.execute(SET_TO, [revision])
            for address in (api, stream):
                assert status(address, "/health/ready") == code
                said = health(address)
                assert (said["schema"], said["postgresql"]) == (schema, "ok")
                assert said["status"] == ("ready" if code == 200 else "not_ready")


def test_a_worker_starts_no_job_before_the_migration(
    settings: Settings,
    engine: sa.Engine,
    at: psycopg.Connection[object],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    at.execute(SET_TO, [OLDER])
    batch_id = submit(engine, settings, 2)
    ready, said = tmp_path / "ready", ""

    def waits() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "no job is started before it is migrated" in said

    arguments = ("--queue", "default", "--ready-file", str(ready))
    with service("services.worker", *arguments, settings=structs.replace(settings, lease=2)) as process:
        wait_for(waits, "the worker to say that it waits", 40)
        assert not ready.exists()
        assert {job.attempt for job in job_rows(engine, batch_id)} == {0}
        at.execute(SET_TO, [REVISION])
        assert wait_finished(engine, batch_id).status == "COMPLETED"
        assert ready.exists()
        process.terminate()
        assert process.wait(30) == 0
    waits()
    assert said.count("no job is started before it is migrated") == 1


def test_a_worker_that_waits_for_the_migration_leaves_when_asked(
    settings: Settings, at: psycopg.Connection[object], capfd: pytest.CaptureFixture[str]
) -> None:
    at.execute(SET_TO, [OLDER])
    with service("services.worker", "--queue", "default", settings=settings) as process:
        wait_for(lambda: "migrated" in capfd.readouterr().err, "the worker to say that it waits", 40)
        process.terminate()
        assert process.wait(20) == 0


def test_migrating_says_what_it_did_and_a_check_says_what_is_missing(
    database_url: str,
    at: psycopg.Connection[object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command(*arguments: str, url: str = database_url) -> tuple[int, str, str]:
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.setattr(sys, "argv", ["infra.migrations", *arguments])
        return main(), *capsys.readouterr()

    at.execute("DROP SCHEMA public CASCADE")
    at.execute("CREATE SCHEMA public")
    status, said, _ = command("--check")
    assert (status, said.count("missing: ")) == (1, int(REVISION))
    assert at.execute("SELECT to_regclass('batches')").fetchone() == (None,)

    status, said, _ = command()
    assert (status, said.count("migrated: ")) == (0, int(REVISION))
    assert said.startswith("migrated: 0001 ")

    assert command("--check")[0] == 0
    assert command() == (0, "the database is up to date: nothing to do\n", "")

    status, _, complaint = command(url="postgresql://nobody@127.0.0.1:1/none")
    assert status == 2
    assert complaint.startswith("DATABASE_URL cannot be used")


def test_a_database_of_a_newer_version_is_left_as_it_is(database_url: str, at: psycopg.Connection[object]) -> None:
    at.execute(SET_TO, [NEWER])
    assert pending(database_url) == []
    assert migrate(database_url) == []
    assert at.execute("SELECT version_num FROM alembic_version").fetchone() == (NEWER,)


def test_a_migration_that_waits_for_a_table_keeps_nobody_else_waiting(
    database_url: str, at: psycopg.Connection[object]
) -> None:
    """Whoever comes behind a statement that waits for the whole table waits as well: for two seconds, not for ever."""
    at.execute("DROP SCHEMA public CASCADE")
    at.execute("CREATE SCHEMA public")
    migrate(database_url, "0004")
    holds, done = Event(), []
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM batches")  # and its transaction goes on
        migrating = Thread(target=lambda: done.extend(migrate(database_url, waiting=holds.set)))
        migrating.start()
        assert holds.wait(30)
        # it is between two attempts, or waits for two seconds at most
        at.execute("SET statement_timeout = '20s'")
        at.execute("UPDATE batches SET priority = 1")
        assert not done
    migrating.join(60)
    assert [name[:4] for name in done] == ["0005"]


def test_a_table_that_is_in_use_all_the_time_is_a_sentence(database_url: str, at: psycopg.Connection[object]) -> None:
    at.execute("DROP SCHEMA public CASCADE")
    at.execute("CREATE SCHEMA public")
    migrate(database_url, "0004")
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM batches")
        with pytest.raises(Busy, match=r"in use for 0\.1 s"):
            migrate(database_url, patience=0.1)
    assert pending(database_url) != []
