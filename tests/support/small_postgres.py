"""A PostgreSQL on a small disk, kept alive as `make run` keeps its own.

The disk belongs to a process of its own, which starts the server there and starts it again when it ends:

    python -m tests.support.small_postgres DIRECTORY

It writes the database's address, and ends with its standard input.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from infra.embedded.postgres import Postgres
from infra.supervisor import EmbeddedServer, Keeper
from tests.support.small_disk import SmallDisk, on_small_disk

SIZE = 120 * 2**20
"""Bytes: a new database takes about half of that."""


class SmallPostgres:
    """In the place of an embedded server; `stop` ends it for good."""

    name = Postgres.name

    def __init__(self, directory: Path) -> None:
        self.url = ""
        self.pid = 0
        self._directory = directory
        self._process: subprocess.Popen[str] | None = None

    @property
    def disk(self) -> SmallDisk:
        return SmallDisk(self.pid, self._directory)

    def start(self) -> None:
        command = [*on_small_disk(self._directory, SIZE), sys.executable, "-m", __spec__.name, str(self._directory)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, "it did not start"
        self.pid = self._process.pid

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        if self._process is not None:
            self._process.communicate(timeout=60)
            self._process = None


class _Frugal(Postgres):
    def _command(self) -> Sequence[str | Path]:
        return [*super()._command(), "-c", "min_wal_size=32MB", "-c", "max_wal_size=32MB"]


def _main(directory: Path) -> None:
    started = Event()
    part = EmbeddedServer(lambda port: _Frugal(directory, port, durable=False))
    keeper = Keeper(part, changed=started.set, say=lambda sentence: print(sentence, file=sys.stderr))  # noqa: T201
    keeper.start()
    keeper.await_started()
    if started.is_set():
        print(part.server.url, flush=True)  # noqa: T201
        sys.stdin.read()
    keeper.stop()
    while not keeper.ended(1):
        pass


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
