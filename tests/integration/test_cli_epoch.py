"""`headway epoch rotate`: which database it renews, and what it says where it cannot."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from infra.home import Home, Running
from shared import queries
from shared.settings import Settings
from tests.support.running import headway


def epoch(engine: sa.Engine) -> str:
    with engine.connect() as connection:
        return str(connection.execute(queries.EPOCH).scalar_one())


def test_the_old_epoch_and_the_new_one_are_told(engine: sa.Engine, settings: Settings, tmp_path: Path) -> None:
    old = epoch(engine)
    done = headway(tmp_path, "epoch", "rotate", DATABASE_URL=settings.database_url)
    assert epoch(engine) != old
    assert (done.returncode, done.stdout, done.stderr) == (0, f"The epoch was {old} and is {epoch(engine)}.\n", "")


def test_without_an_address_it_is_what_runs_here(engine: sa.Engine, settings: Settings, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.enter()
    home.write_run(Running("http://127.0.0.1:1", settings.database_url, settings.redis_url, {}))
    old = epoch(engine)
    done = headway(home.path, "epoch", "rotate")
    home.leave()
    assert (done.returncode, done.stdout) == (0, f"The epoch was {old} and is {epoch(engine)}.\n")
    assert epoch(engine) != old

    done = headway(home.path, "epoch", "rotate")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "headway: DATABASE_URL is not set, and nothing runs here.\n"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql://anna:hunter2@127.0.0.1:1/headway", "refused"),
        ("mysql://anna:hunter2@127.0.0.1/headway", "expected postgresql://"),
        ("hunter2", "expected postgresql://"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_without_the_password(tmp_path: Path, address: str, said: str) -> None:
    done = headway(tmp_path, "epoch", "rotate", DATABASE_URL=address)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("headway: The database cannot be used: ")
    assert said in done.stderr
    assert "hunter2" not in done.stderr


def test_a_database_that_is_not_ours_is_left_alone(engine: sa.Engine, settings: Settings, tmp_path: Path) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP FUNCTION headway_epoch")
    done = headway(tmp_path, "epoch", "rotate", DATABASE_URL=settings.database_url)
    assert (done.returncode, done.stdout) == (2, "")
    assert "headway_epoch() does not exist" in done.stderr
