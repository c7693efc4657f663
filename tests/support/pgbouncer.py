"""PgBouncer in transaction mode, in front of a test's database."""

import os
import pwd
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.database import connect_url
from tests.support.batches import wait_for
from tests.support.needs import program
from tests.support.ports import own_port

_HOST = "127.0.0.1"
_CONFIGURATION = """\
[databases]
{database} = host={host} port={port} dbname={database} user={user} password={password}

[pgbouncer]
listen_addr = {listens}
listen_port = {own_port}
unix_socket_dir =
auth_type = plain
auth_file = {directory}/users.txt
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 500
query_wait_timeout = 10
server_login_retry = 1
{more}
"""


class PgBouncer:
    """`url` is that of the database by way of it. `size`: PostgreSQL's connections, which all clients share."""

    def __init__(self, directory: Path, database_url: str, *, size: int = 5, more: str = "") -> None:
        directory.mkdir(mode=0o700)
        self._program = program("pgbouncer")
        self._directory = directory
        self._port = own_port()
        self._log = directory / "pgbouncer.log"
        self._process: subprocess.Popen[bytes] | None = None
        url = connect_url(database_url)
        self.url = url.set(drivername="postgresql", host=_HOST, port=self._port).render_as_string(hide_password=False)
        names = {"host": url.host, "port": url.port, "database": url.database, "user": url.username}
        directory.joinpath("users.txt").write_text(f'"{url.username}" "{url.password}"\n')
        directory.joinpath("pgbouncer.ini").write_text(
            _CONFIGURATION.format(
                listens=_HOST,
                own_port=self._port,
                directory=directory,
                size=size,
                password=url.password,
                more=more,
                **names,
            )
        )

    def start(self) -> None:
        command = [self._program, str(self._directory / "pgbouncer.ini")]
        if os.getuid() == 0:  # as which it refuses to run
            nobody = pwd.getpwnam("nobody")
            for path in (self._directory, *self._directory.iterdir()):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            command[1:1] = ["--user", "nobody"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        wait_for(lambda: self._listens() or not self._runs(), "PgBouncer to listen")
        assert self._runs(), self.said()

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def said(self) -> str:
        return self._log.read_text()

    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _listens(self) -> bool:
        with socket.socket() as asking:
            return asking.connect_ex((_HOST, self._port)) == 0


@contextmanager
def pooled(directory: Path, database_url: str, *, size: int = 5, more: str = "") -> Iterator[PgBouncer]:
    """It runs; killed in the end."""
    bouncer = PgBouncer(directory, database_url, size=size, more=more)
    try:
        bouncer.start()
        yield bouncer
    finally:
        bouncer.kill()
