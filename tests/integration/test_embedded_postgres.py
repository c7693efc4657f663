"""The embedded PostgreSQL: what it is set to, and the states in which it may find its directory."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import psycopg
import pytest

from infra.embedded.errors import EmbeddedError
from infra.embedded.postgres import Postgres

REPOSITORY: Final = Path(__file__).parents[2]
START: Final = """
import resource, sys
from pathlib import Path
from infra.embedded.errors import EmbeddedError
from infra.embedded.postgres import Postgres

if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    Postgres(Path(sys.argv[1]), durable=False).start()
except EmbeddedError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One as the product starts it. Stopped by those tests that want a copy of its directory."""
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    yield server
    server.stop()


@pytest.fixture
def connection(server: Postgres) -> Iterator[psycopg.Connection]:
    server.start()
    with psycopg.connect(server.url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def copy(server: Postgres, tmp_path: Path) -> Iterator[Callable[[], Postgres]]:
    """Make a stopped server in a directory that was used before."""
    with ExitStack() as running:

        def copy() -> Postgres:
            server.start()
            server.stop()
            shutil.copytree(server.home.path, tmp_path / "copy")
            other = Postgres(tmp_path / "copy", durable=False)
            running.callback(other.stop)
            return other

        yield copy


def ask(connection: psycopg.Connection, query: str) -> object:
    row = connection.execute(query).fetchone()
    return row[0] if row and len(row) == 1 else row


def test_the_role_owns_its_database_may_clone_it_and_is_no_superuser(connection: psycopg.Connection) -> None:
    assert ask(connection, "SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user") == (False, True)
    assert ask(connection, "SELECT current_user || ' ' || current_database()") == "headway headway"
    connection.execute("CREATE DATABASE clone TEMPLATE headway")
    connection.execute("DROP DATABASE clone")


def test_the_role_may_ask_what_an_epoch_is_made_of(connection: psycopg.Connection) -> None:
    assert ask(connection, "SELECT system_identifier FROM pg_control_system()")
    assert ask(connection, "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)") == "00000001"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SHOW server_encoding", "UTF8"),
        ("SHOW timezone", "UTC"),
        ("SHOW max_connections", "200"),
        ("SHOW fsync", "on"),
        ("SHOW full_page_writes", "on"),
        ("SHOW synchronous_commit", "on"),
        ("SHOW listen_addresses", "127.0.0.1"),
        ("SELECT datlocale FROM pg_database WHERE datname = current_database()", "C.UTF-8"),
        ("SELECT upper('größe')", "GRÖßE"),
        ("SELECT 'Z' < 'a'", True),
    ],
)
def test_it_is_set_up_for_headway(connection: psycopg.Connection, query: str, expected: object) -> None:
    assert ask(connection, query) == expected


def test_the_superuser_comes_only_through_the_socket_in_the_closed_directory(
    server: Postgres, connection: psycopg.Connection
) -> None:
    assert connection.info.host == "127.0.0.1"
    with psycopg.connect(host=str(server.home.path), port=server.port, user="postgres", dbname="postgres") as local:
        assert ask(local, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is True
    with pytest.raises(psycopg.OperationalError, match="no pg_hba"):
        psycopg.connect(host="127.0.0.1", port=server.port, user="postgres", dbname="postgres")


def test_what_was_committed_outlives_a_kill_also_when_not_durable(copy: Callable[[], Postgres]) -> None:
    server = copy()
    server.start()
    with psycopg.connect(server.url) as connection:
        assert ask(connection, "SHOW fsync") == "off"
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    kill(server)
    server.start()
    with psycopg.connect(server.url) as connection:
        assert ask(connection, "SELECT answer FROM kept") == 42


def test_it_comes_back_although_a_backend_is_too_busy_to_see_that_it_was_killed(copy: Callable[[], Postgres]) -> None:
    server = copy()
    server.start()
    with closing(psycopg.connect(server.url)) as busy, psycopg.connect(server.url, autocommit=True) as observer:
        busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 5000000)")
        deadline = time.monotonic() + 10
        while not ask(observer, "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query ~ 'series.1'"):
            assert time.monotonic() < deadline
        kill(server)
        assert server.home.lock("server.lock", seconds=0) is None
        server.start()
    assert server.alive()


def kill(server: Postgres) -> None:
    os.kill(server.pid, signal.SIGKILL)
    assert server._process is not None
    server._process.wait(10)


@pytest.fixture
def bystander(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "60"], cwd=tmp_path) as process:
        yield process
        process.kill()


def test_a_stale_pid_file_of_a_process_that_is_gone_does_not_matter(
    copy: Callable[[], Postgres], bystander: subprocess.Popen[bytes]
) -> None:
    server = copy()
    bystander.kill()
    bystander.wait()
    write_pid(server, str(bystander.pid))
    server.start()
    assert server.alive()


def test_a_stale_pid_that_is_another_process_by_now_does_not_matter(
    copy: Callable[[], Postgres], bystander: subprocess.Popen[bytes]
) -> None:
    server = copy()
    write_pid(server, str(bystander.pid))
    socket_lock = server.home.path / f".s.PGSQL.{(server.home.path / 'port').read_text()}.lock"
    socket_lock.write_text(f"{bystander.pid}\n")
    server.start()
    assert server.alive()
    assert bystander.poll() is None


@pytest.mark.parametrize("text", ["", "nonsense"])
def test_a_pid_file_cut_off_while_it_was_written_does_not_matter(copy: Callable[[], Postgres], text: str) -> None:
    server = copy()
    write_pid(server, text)
    server.start()
    assert server.alive()


def test_a_postgresql_started_by_hand_is_left_alone(copy: Callable[[], Postgres]) -> None:
    server = copy()
    with subprocess.Popen(["/bin/sleep", "60"], cwd=server._data) as by_hand:
        write_pid(server, str(by_hand.pid))
        with pytest.raises(EmbeddedError, match=rf"not started by us \(process {by_hand.pid}\)"):
            server.start()
        assert by_hand.poll() is None
        assert server._pid_file.exists()
        by_hand.kill()


def write_pid(server: Postgres, first: str) -> None:
    server._pid_file.write_text(f"{first}\n{server._data}\n1700000000\n5432\n\n127.0.0.1\n 12345 67890\nready\n")


def test_a_directory_whose_making_was_killed_is_made_anew(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", START, tmp_path], cwd=REPOSITORY) as launcher:
        deadline = time.monotonic() + 30
        while not (tmp_path / "data" / "PG_VERSION").exists():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        launcher.kill()
    assert not (tmp_path / "data" / "headway.password").exists()
    server = Postgres(tmp_path, durable=False)
    server.start()
    with psycopg.connect(server.url) as connection:
        assert ask(connection, "SELECT 1") == 1
    server.stop()
    # initdb, which the launcher takes along, may have had the time to remove what it had made
    assert len(list(tmp_path.glob("data.half-made-*"))) <= 1


def test_what_was_half_made_is_kept_aside(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "PG_VERSION").write_text("18\n")
    server = Postgres(tmp_path, durable=False)
    server.start()
    server.stop()
    assert [path.name for path in tmp_path.glob("data.half-made-*/PG_VERSION")] == ["PG_VERSION"]


def test_a_disk_that_takes_no_more_is_an_error_that_says_so(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: PostgreSQL fails at the same writes."""
    done = subprocess.run(
        [sys.executable, "-c", START, tmp_path, "100000"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert "PostgreSQL could not be set up." in done.stdout
    assert "File too large" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert not (tmp_path / "data" / "headway.password").exists()


def test_data_of_another_major_version_is_an_error_that_names_both(copy: Callable[[], Postgres]) -> None:
    server = copy()
    (server._data / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedError, match=r"made by PostgreSQL 17, and this is PostgreSQL 18"):
        server.start()
    assert (server._data / "headway.password").exists()


def test_an_error_ends_with_the_last_lines_of_the_log(copy: Callable[[], Postgres]) -> None:
    server = copy()
    (server._data / "postgresql.conf").write_text("nonsense = on\n")
    with pytest.raises(EmbeddedError, match=r'did not start\. .*server\.log: .*unrecognized .* "nonsense"') as caught:
        server.start()
    assert "\n" not in str(caught.value)
