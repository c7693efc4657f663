"""What both embedded servers promise: to start, stop, come back, and never to outlive their launcher."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Final

import psycopg
import pytest
import redis

from infra.embedded import ports
from infra.embedded.errors import EmbeddedError
from infra.embedded.home import Account, Home
from infra.embedded.postgres import Postgres
from infra.embedded.server import Server
from infra.embedded.valkey import Valkey

Make = Callable[..., Server]
REPOSITORY: Final = Path(__file__).parents[2]
NOBODY: Final = Account(65534, 65534)

# Starts both servers in the directory given, prints their numbers, and waits to be killed or interrupted.
LAUNCHER: Final = """
import json, signal, sys
from pathlib import Path
from infra.embedded.postgres import Postgres
from infra.embedded.valkey import Valkey

directory = Path(sys.argv[1])
servers = [Postgres(directory / "Postgres", durable=False), Valkey(directory / "Valkey")]
try:
    for server in servers:
        server.start()
    print(json.dumps([server.port for server in servers]), flush=True)
    signal.pause()
except KeyboardInterrupt:
    print(json.dumps([server._ready() for server in servers]), flush=True)
    for server in servers:
        server.stop()
"""


def answers(server: Server) -> bool:
    """Whether a client with the server's URL gets in and out."""
    if isinstance(server, Postgres):
        with psycopg.connect(server.url, connect_timeout=5) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    with redis.Redis.from_url(server.url) as client:
        return bool(client.ping())


def kill(server: Server) -> None:
    os.kill(server.pid, signal.SIGKILL)
    assert server._process is not None
    server._process.wait(10)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PostgreSQL directory to copy, because making one takes longer than all else."""
    server = Postgres(tmp_path_factory.mktemp("prepared"), durable=False)
    server.start()
    server.stop()
    (server.home.path / "port").unlink()
    return server.home.path


@pytest.fixture(params=[Postgres, Valkey])
def make(request: pytest.FixtureRequest, prepared: Path) -> Iterator[Make]:
    """Make a server in a directory; it is stopped after the test."""
    with ExitStack() as running:

        def make(directory: Path, port: int | None = None) -> Server:
            server: Server
            if request.param is Postgres:
                if not directory.exists():
                    shutil.copytree(prepared, directory)
                server = Postgres(directory, port, durable=False)
            else:
                server = Valkey(directory, port)
            running.callback(server.stop)
            return server

        yield make


@pytest.fixture
def launcher(prepared: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A launcher that is a process of its own, running both servers in `tmp_path`."""
    shutil.copytree(prepared, tmp_path / "Postgres")
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, tmp_path],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()


def test_it_starts_answers_stops_and_starts_again(make: Make, tmp_path: Path) -> None:
    server = make(tmp_path / "server")
    assert (server.pid, server.url, server.alive()) == (0, "", False)
    for _ in range(2):
        server.start()
        assert server.alive()
        assert answers(server)
        first = server.pid
        server.start()  # already there
        assert server.pid == first
        server.stop()
        server.stop()
        assert not server.alive()
        assert ports.is_free(server.port)


@pytest.mark.parametrize("name", ["with a space", "Größe-日本", 'quote\'d "and", more', "deep/" * 30])
def test_any_path_will_do(make: Make, tmp_path: Path, name: str) -> None:
    server = make(tmp_path / name)
    server.start()
    assert answers(server)


def test_two_run_at_once_in_different_directories(make: Make, tmp_path: Path) -> None:
    servers = [make(tmp_path / name) for name in ("one", "two")]
    for server in servers:
        server.start()
    assert servers[0].port != servers[1].port
    assert all(answers(server) for server in servers)


def test_it_comes_back_to_its_port_and_url_after_being_killed(make: Make, tmp_path: Path) -> None:
    server = make(tmp_path / "server")
    server.start()
    before = server.url
    kill(server)
    assert not server.alive()
    server.start()
    assert server.url == before
    assert answers(server)


def test_the_next_launcher_finds_the_same_port_and_url(make: Make, tmp_path: Path) -> None:
    first = make(tmp_path / "server")
    first.start()
    first.stop()
    second = make(tmp_path / "server")
    second.start()
    assert second.url == first.url


def test_a_given_port_that_is_taken_is_an_error_that_names_it(make: Make, tmp_path: Path) -> None:
    with socket.create_server((ports.HOST, 0)) as listener:
        port = listener.getsockname()[1]
        server = make(tmp_path / "server", port)
        with pytest.raises(EmbeddedError, match=f"Port {port} "):
            server.start()
    server.start()
    assert server.port == port


def test_another_port_is_found_when_the_last_is_taken(make: Make, tmp_path: Path) -> None:
    server = make(tmp_path / "server")
    server.start()
    server.stop()
    last = server.port
    with socket.create_server((ports.HOST, last)):
        server.start()
        assert server.port != last
        assert answers(server)


def test_a_second_launcher_is_refused_and_the_first_goes_on(make: Make, tmp_path: Path) -> None:
    first = make(tmp_path / "server")
    first.start()
    with pytest.raises(EmbeddedError, match=f"already run by process {os.getpid()}"):
        make(tmp_path / "server").start()
    assert answers(first)


def test_it_listens_on_one_loopback_address_only(make: Make, tmp_path: Path) -> None:
    server = make(tmp_path / "server")
    server.start()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), timeout=5)


def test_it_lets_nobody_in_without_the_password(make: Make, tmp_path: Path) -> None:
    server = make(tmp_path / "server")
    server.start()
    password = server.url.split(":")[2].split("@")[0]
    assert len(password) == 48
    server.url = server.url.replace(password, "guess")
    with pytest.raises((psycopg.OperationalError, redis.AuthenticationError), match=r"password"):
        answers(server)
    assert password not in Path(f"/proc/{server.pid}/cmdline").read_text()


def test_it_does_not_run_as_root_and_its_directory_stays_closed(make: Make, tmp_path: Path) -> None:
    """Also below a directory that is closed to whom it runs as, which is left as it is."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = make(closed / "server")
    server.start()
    files = [server.home.path, *server.home.path.rglob("*")]
    assert Path(f"/proc/{server.pid}").stat().st_uid != 0
    assert [path for path in files if path.lstat().st_mode & 0o077] == []
    assert closed.stat().st_mode & 0o777 == 0o700
    assert closed.stat().st_uid == os.geteuid()


def test_the_thread_that_started_it_may_end(make: Make, tmp_path: Path) -> None:
    """The kernel takes the end of the forking thread for the end of the launcher."""
    server = make(tmp_path / "server")
    thread = Thread(target=server.start)
    thread.start()
    thread.join()
    assert answers(server)


def test_a_frozen_server_is_stopped_all_the_same(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = make(tmp_path / "server")
    monkeypatch.setattr(type(server), "stop_signals", ((signal.SIGTERM, 0.1),))
    server.start()
    os.kill(server.pid, signal.SIGSTOP)
    server.stop()
    assert not Path(f"/proc/{server.pid}").exists()


def test_a_failed_start_names_the_cause_and_leaves_nothing_locked(make: Make, tmp_path: Path) -> None:
    server = make(tmp_path / "server")
    obstacle = tmp_path / "server" / "port.new"
    obstacle.mkdir(parents=True)
    with pytest.raises(EmbeddedError, match=r"port\.new: Is a directory"):
        server.start()
    assert not server.alive()
    obstacle.rmdir()
    other = make(tmp_path / "server")
    other.start()
    assert answers(other)


def test_servers_go_when_their_launcher_is_killed(launcher: subprocess.Popen[str], tmp_path: Path) -> None:
    assert launcher.stdout is not None
    taken = json.loads(launcher.stdout.readline())
    assert not any(map(ports.is_free, taken))
    launcher.kill()
    launcher.wait()
    for kind in (Postgres, Valkey):
        lock = Home(tmp_path / kind.__name__).lock("server.lock", seconds=5)
        assert lock is not None, f"{kind.name} outlived its launcher"
        lock.close()
    assert all(map(ports.is_free, taken))


def test_ctrl_c_reaches_the_launcher_only(launcher: subprocess.Popen[str]) -> None:
    assert launcher.stdout is not None
    launcher.stdout.readline()
    os.killpg(launcher.pid, signal.SIGINT)
    assert json.loads(launcher.stdout.readline()) == [True, True]
    assert launcher.wait(10) == 0


def as_user(program: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a Python program as a user who is not root, with the directory as its argument."""
    command: list[str | Path] = [sys.executable, "-c", program, directory]
    uid: int | None = None
    groups: list[int] | None = None
    if os.geteuid() == 0:
        if all(map(NOBODY.reaches, (Path(sys.executable).resolve(), REPOSITORY, directory.parent))):
            os.chown(directory, NOBODY.uid, NOBODY.gid)
            uid, groups = NOBODY.uid, []
        else:  # Python or the checkout is in root's home: a user to whom root's files belong, without root's powers
            command = ["unshare", "--user", f"--map-user={NOBODY.uid}", f"--map-group={NOBODY.gid}", *command]
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        user=uid,
        group=uid,
        extra_groups=groups,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def users_directory() -> Iterator[Path]:
    """Not below pytest's, which is closed to other users."""
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        directory = Path(parent, "home")
        directory.mkdir(mode=0o700)
        yield directory


START: Final = """
import os, sys
from pathlib import Path
from infra.embedded.errors import EmbeddedError
from infra.embedded.postgres import Postgres
from infra.embedded.valkey import Valkey

assert os.geteuid() != 0
for server in (Postgres(Path(sys.argv[1]) / "p", durable=False), Valkey(Path(sys.argv[1]) / "v")):
    try:
        server.start()
        print(server._ready(), os.stat(f"/proc/{server.pid}").st_uid == os.geteuid())
    except EmbeddedError as error:
        print(error)
    server.stop()
"""


def test_a_user_runs_both(users_directory: Path) -> None:
    done = as_user(START, users_directory)
    assert (done.stdout, done.stderr) == ("True True\nTrue True\n", "")


def test_a_directory_that_cannot_be_written_is_an_error_that_names_it(users_directory: Path) -> None:
    users_directory.chmod(0o500)
    done = as_user(START, users_directory)
    assert done.stdout.splitlines() == [
        f"PostgreSQL cannot use {users_directory}/p: Permission denied.",
        f"Valkey cannot use {users_directory}/v: Permission denied.",
    ]
