"""PostgreSQL restarted, killed and frozen at any moment while a batch runs and is watched."""

from pathlib import Path
from random import Random
from signal import SIGINT, SIGKILL, SIGQUIT
from threading import Event

import pytest
import sqlalchemy as sa

from shared.settings import Settings
from tests.support.ordeal import ordeal

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
