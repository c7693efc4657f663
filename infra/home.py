"""HEADWAY_HOME: what `headway run` keeps between two starts, and what other commands learn from it."""

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from infra.embedded.home import Home as Directory
from shared.settings import Settings, load_settings

KEYS = {"HEADWAY_SECRET": "secret", "HEADWAY_TICKET_KEY": "ticket-key"}
"""The variable, and the file in which the key is kept when the variable is not set."""

_KEY_BYTES = 48


class HomeError(Exception):
    """A sentence for whoever typed the command."""


class Running(Struct, rename="camel"):
    """`run.json`: what runs at the moment, and where. `pids` is by part: web, worker, postgres, redis."""

    address: str
    database_url: str
    redis_url: str
    pids: dict[str, list[int]]


class Home:
    """One directory, mode 0700. Nothing is written before `enter`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.uploads = path / "uploads"
        self.logs = path / "logs"
        self.detector = path / "detector.onnx"
        self._run_file = path / "run.json"
        self._lock: BinaryIO | None = None

    @staticmethod
    def of(environment: Mapping[str, str]) -> "Home":
        return Home(Path(environment.get("HEADWAY_HOME") or ".headway"))

    def enter(self) -> None:
        """Make it ours, until `leave` or our death. Raises HomeError if another process has it."""
        try:
            for path in (self.path, self.logs):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.chmod(0o700)
            self._lock = self._directory.lock("run.lock", seconds=0)
        except OSError as error:
            raise HomeError(f"{error.filename or self.path} cannot be used: {error.strerror}.") from None
        if self._lock is None:
            running = self._read_run()
            where = f" at {running.address}" if running else ""
            raise HomeError(
                f"Headway runs in {self.path} already{where}. For a second one, set HEADWAY_HOME to another directory."
            )
        self._run_file.unlink(missing_ok=True)  # of a run that was killed

    def leave(self) -> None:
        if self._lock is not None:
            self._run_file.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def key(self, variable: str, environment: Mapping[str, str]) -> str | None:
        """The key that services get by this variable: it is set, or was made by a `run`, or is not known."""
        if value := environment.get(variable):
            return value
        with contextlib.suppress(FileNotFoundError):
            return (self.path / KEYS[variable]).read_text()
        return None

    def make_keys(self, environment: Mapping[str, str]) -> dict[str, str]:
        """All keys, by variable. What is missing is made and kept: tokens outlive a restart."""
        keys = {}
        for variable, name in KEYS.items():
            if variable == "HEADWAY_SECRET" and environment.get("HEADWAY_JWKS_URL"):
                continue  # somebody else issues the tokens
            key = self.key(variable, environment)
            if key is None:
                key = secrets.token_urlsafe(_KEY_BYTES)
                self._directory.write(self.path / name, key)
            keys[variable] = key
        return keys

    def write_run(self, running: Running) -> None:
        self._directory.write(
            self._run_file, msgspec.json.format(msgspec.json.encode(running), indent=2).decode() + "\n"
        )

    def running(self) -> Running | None:
        """What runs here, if anything does: what a killed `run` left behind does not count."""
        try:
            lock = self._directory.lock("run.lock", seconds=0) if self._run_file.exists() else None
        except OSError:
            return None  # somebody else's
        if lock is not None:
            lock.close()
            return None
        return self._read_run()

    @property
    def _directory(self) -> Directory:
        return Directory(self.path)

    def _read_run(self) -> Running | None:
        try:
            return msgspec.json.decode(self._run_file.read_bytes(), type=Running)
        except (OSError, msgspec.MsgspecError):
            return None


def signing_settings(home: Home, environment: Mapping[str, str]) -> Settings:
    """Settings good for making tokens and nothing else. Raises SettingsError, and HomeError if none can be made."""
    if environment.get("HEADWAY_JWKS_URL"):
        raise HomeError(
            "HEADWAY_JWKS_URL is set: tokens are issued elsewhere, and none can be made here. "
            "Get one there, and give it by --token or HEADWAY_TOKEN."
        )
    secret = home.key("HEADWAY_SECRET", environment)
    if secret is None:
        raise HomeError(f"There is no secret: set HEADWAY_SECRET, or start Headway once in {home.path}.")
    unused = {"DATABASE_URL": "postgresql:///", "REDIS_URL": "redis:///", "HEADWAY_TICKET_KEY": secret}
    return load_settings({**unused, **environment, "HEADWAY_SECRET": secret})


def home_of_process() -> Home:
    return Home.of(os.environ)
