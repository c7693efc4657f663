"""PgBouncer in transaction mode, with fewer of PostgreSQL's connections than there are clients."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from msgspec import structs
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from infra.cli.epoch import rotate
from infra.migrations.migrate import migrate
from shared import pooler
from shared.database import make_async_engine, make_engine
from shared.settings import Settings
from tests.support.batches import assert_consistent, batch_row, wait_finished, wait_for
from tests.support.ordeal import PATIENCE, ordeal
from tests.support.pgbouncer import PgBouncer, pooled
from tests.support.web import client, rehearsal, submit

pytestmark = pytest.mark.timeout(300)  # half a minute, but on a machine that is busy otherwise

SIZE = 5
JOBS = 10_000
_IDLE = sa.text("SHOW idle_in_transaction_session_timeout")


@pytest.fixture
def bouncer(settings: Settings, tmp_path: Path) -> Iterator[PgBouncer]:
    with pooled(tmp_path / "pgbouncer", settings.database_url, size=SIZE) as bouncer:
        yield bouncer


def test_all_that_is_done_is_done_through_it(
    settings: Settings, bouncer: PgBouncer, engine: sa.Engine, tmp_path: Path
) -> None:
    settings = structs.replace(settings, database_url=bouncer.url, pooler="transaction")
    with ordeal(settings, tmp_path, with_api=True) as batch:
        whole = batch.whole
        batch.gets_on()
        with client(whole.api_address, whole.settings) as api:
            large = UUID(submit(api, rehearsal(JOBS, {"steps": 1, "stepMs": 1}))["batchId"])
            wait_for(lambda: batch_row(engine, large).completed > SIZE, "jobs of the large batch", PATIENCE)
            whole.workers[0].kill()
            batch.gets_on()
            assert connections(engine) <= SIZE
            transcript = api.get(f"/api/batches/{batch.batch_id}/logs", params={"format": "text"})
            assert transcript.text.count("\n") > SIZE
            assert api.post(f"/api/batches/{large}/cancel").is_success
        whole.workers[0].start()
        bouncer.kill()
        bouncer.start()
        batch.gets_on()
        wait_finished(engine, large, PATIENCE)
        assert_consistent(engine, large)
        batch.verdict(expired=True)
        said = whole.said() + bouncer.said()
    assert "prepared statement" not in said
    assert "unsupported" not in said


def test_what_holds_for_a_connection_is_said_for_each_transaction(settings: Settings, bouncer: PgBouncer) -> None:
    through = make_engine(bouncer.url, pool_size=1, application="test", pooler="transaction")
    with through.begin() as connection:
        assert connection.execute(_IDLE).scalar_one() == "5s"
    with through.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert connection.execute(_IDLE).scalar_one() == "0"  # nothing is left behind for others
    through.dispose()

    async def ask() -> str:
        watching = make_async_engine(bouncer.url, pool_size=1, application="test", pooler="transaction")
        async with watching.connect() as snapshot:
            found: str = (await snapshot.execute(_IDLE)).scalar_one()
        await watching.dispose()
        return found

    assert asyncio.run(ask()) == "5s"


@pytest.mark.parametrize("more", ["", "ignore_startup_parameters = options"])
def test_a_pooler_that_the_settings_do_not_tell_of_is_named(settings: Settings, tmp_path: Path, more: str) -> None:
    def ask() -> None:
        engine = make_engine(bouncer.url, pool_size=1, application="test")
        with pytest.raises(OperationalError, match="HEADWAY_POOLER=transaction"):
            engine.connect()
        engine.dispose()

    async def watch() -> None:
        engine = make_async_engine(bouncer.url, pool_size=1, application="test")
        with pytest.raises(OperationalError, match="HEADWAY_POOLER=transaction"):
            await engine.connect()
        await engine.dispose()

    pooler._told.clear()
    with pooled(tmp_path / "pgbouncer", settings.database_url, more=more) as bouncer, capture_logs() as said:
        ask()
        asyncio.run(watch())
    assert [line["log_level"] for line in said if "HEADWAY_POOLER=transaction" in line["event"]] == ["error"]


def test_migrations_and_a_new_epoch_pass_it(bouncer: PgBouncer, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):  # one after the other in the same connections
        assert migrate(bouncer.url) == []
    monkeypatch.setenv("DATABASE_URL", bouncer.url)
    rotate()


def connections(engine: sa.Engine) -> int:
    """That PgBouncer has to this database. `engine` goes past it."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'test'"
    with engine.connect() as connection:
        return int(connection.execute(sa.text(query)).scalar_one())
