"""PostgreSQL restarted, killed and frozen at any moment while a batch runs and is watched."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from signal import SIGINT, SIGKILL, SIGQUIT
from threading import Event, Timer
from uuid import UUID

import pytest
import sqlalchemy as sa
from msgspec import structs

from infra.embedded.postgres import Postgres
from infra.migrations.migrate import migrate
from shared.database import make_engine
from shared.settings import Settings
from tests.support.batches import assert_consistent, batch_row, job_rows, make_batch, wait_finished, wait_for
from tests.support.history import History, record_history
from tests.support.ordeal import PATIENCE, ordeal
from tests.support.ports import own_port
from tests.support.processes import worker
from tests.support.proxy import Proxy, Statement, proxied
from tests.support.tickets import call

pytestmark = pytest.mark.timeout(300)  # twenty seconds, but on a machine that is busy otherwise

_END_ALL = sa.text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND datname = current_database()"
)


def test_no_commit_is_lost_or_made_twice_and_nothing_is_run_again(settings: Settings, tmp_path: Path) -> None:
    chance = Random()  # noqa: S311  # another time each time
    with ordeal(settings, tmp_path, own_postgres=True) as batch:
        postgres = batch.whole.postgres
        batch.gets_on()
        for _ in range(10):  # connections break
            Event().wait(chance.uniform(0, 0.1))
            with batch.whole.engine.connect() as connection:
                connection.execute(_END_ALL)
        for how in (SIGINT, SIGQUIT, *(SIGKILL,) * 5):  # it ends fast, immediately, and on the spot
            batch.gets_on()
            Event().wait(chance.uniform(0, 0.15))
            postgres.stop(how)
            postgres.start()
        batch.gets_on()
        postgres.freeze()
        Event().wait(2 * batch.whole.settings.lease)
        postgres.thaw()
        batch.gets_on()
        batch.verdict()


STOPS = 4


def test_the_server_stops_on_the_spot_while_it_commits(settings: Settings, tmp_path: Path) -> None:
    """Whoever asked for the commit cannot know what became of it: it asks again, and nothing comes of it twice."""
    chance = Random()  # noqa: S311  # another time each time
    postgres = Postgres(tmp_path / "postgres", own_port())
    postgres.start()
    try:
        migrate(postgres.url)
        engine = make_engine(postgres.url, pool_size=2, application="test")
        record_history(engine)
        batch_id = make_batch(engine, 80, params={"steps": 6, "stepMs": 25, "logsPerStep": 1})
        with proxied(postgres.url) as proxy:
            behind = structs.replace(settings, database_url=proxy.url, lease=10)
            with worker(behind, tmp_path), worker(behind, tmp_path):
                call(settings)
                for _ in range(STOPS):
                    _await_progress(engine, batch_id)
                    _at_commit(proxy, chance.uniform(0, 0.003), lambda: os.kill(postgres.pid, SIGQUIT))
                    wait_for(lambda: not postgres.alive(), "the server to be gone", PATIENCE)
                    postgres.start()
                _await_progress(engine, batch_id)
                batch = wait_finished(engine, batch_id, PATIENCE)
        assert (batch.status, batch.completed, batch.summary) == ("COMPLETED", 80, {"jobs": 80, "steps": 480})
        assert all(job.attempt == 1 for job in job_rows(engine, batch_id)), "an outage re-runs nothing"
        assert_consistent(engine, batch_id)
        history = History(engine, batch_id)
        history.read()
        history.check()
        engine.dispose()
    finally:
        postgres.stop()


def _at_commit(proxy: Proxy, delay: float, call_it: Callable[[], None]) -> None:
    """So many seconds after the next commit of what jobs did is on its way; returns then."""
    reached = Event()

    def choose(transaction: Sequence[Statement]) -> None:
        if (
            not reached.is_set()
            and b"COMMIT" in transaction[-1].sql
            and any(b"WITH wanted" in s.sql for s in transaction)
        ):
            Timer(delay, call_it).start()
            reached.set()

    proxy.choose = choose
    assert reached.wait(PATIENCE), "nobody commits"


def _await_progress(engine: sa.Engine, batch_id: UUID) -> None:
    def version() -> int:
        try:
            return int(batch_row(engine, batch_id).version)
        except sa.exc.OperationalError:
            return 0

    before = wait_for(version, "the server to answer", PATIENCE)
    wait_for(lambda: version() > before + 1, "jobs to get on", PATIENCE)
