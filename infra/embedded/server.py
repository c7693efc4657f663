"""What the embedded servers have in common: a directory, a port, and how they start and stop."""

import contextlib
import importlib.util
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from signal import SIGKILL, Signals
from typing import BinaryIO, ClassVar, Final

from infra.embedded import ports
from infra.embedded.errors import EmbeddedError
from infra.embedded.home import Home
from infra.embedded.process import spawn

_START_SECONDS: Final = 60  # crash recovery after a long run may take a while
_LEFTOVER_SECONDS: Final = 10  # backends of a killed postmaster leave when they next look up
_LAST_LINES: Final = 4
_LAST_BYTES: Final = 4096


class Server:
    """One server in one directory (mode 0700), listening on the loopback address only.

    `port` None: the port of the last run if free, else another; so ask for `url` again after each `start()`.
    `url` is empty and `pid` 0 before the first. Not for several threads at once.

    On Linux the server ends when its launcher does, however that dies; elsewhere only `stop()` ends it.
    """

    name: ClassVar[str]
    # What the kernel sends when the launcher is gone: the quickest end that loses nothing.
    death_signal: ClassVar[Signals]
    # How to stop: each signal, and how many seconds to wait before the next; SIGKILL comes last.
    stop_signals: ClassVar[tuple[tuple[Signals, float], ...]]

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self.home = Home(directory)
        self.port = 0
        self.url = ""
        self.pid = 0
        self._wanted_port = port
        self._log = self.home.path / "server.log"
        self._launcher_lock: BinaryIO | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when the server accepts connections; at once when it already does.

        Raises EmbeddedError, after which nothing is left running.
        """
        if self.alive():
            return
        try:
            self.home.enter()
            self._take()
            with self._leftovers_gone() as lock:
                if self._log.exists():
                    self._log.replace(self._log.with_name("previous.log"))
                self._prepare(lock)
                self.port = self._choose_port()
                self.url = self._make_url()
                process = self._spawn(self._command(), self._input(), lock)
            self.pid = process.pid
            self._await_ready(process)
            self.home.write(self.home.path / "port", str(self.port))
        except OSError as error:
            self.stop()
            raise EmbeddedError(
                f"{self.name} cannot use {error.filename or self.home.path}: {error.strerror}."
            ) from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._process is not None:
            for number, patience in (*self.stop_signals, (SIGKILL, None)):
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(patience)
                    break
            self._process = None
        if self._launcher_lock is not None:
            self._launcher_lock.close()
            self._launcher_lock = None

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # What a server fills in, in the order of the calls.

    def _prepare(self, lock: BinaryIO) -> None:
        """Make the files that the server needs. Nobody else uses the directory; `lock` is for `_run`."""
        raise NotImplementedError

    def _make_url(self) -> str:
        raise NotImplementedError

    def _command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def _input(self) -> str:
        """What the server reads from its standard input."""
        return ""

    def _ready(self) -> bool:
        raise NotImplementedError

    # The rest is how.

    def _take(self) -> None:
        """A second launcher is told at once. This lock goes with the launcher, however it ends."""
        if self._launcher_lock is not None:
            return
        path = self.home.path / "launcher.lock"
        lock = self.home.lock(path.name, seconds=0)
        if lock is None:
            raise EmbeddedError(f"{self.name} in {self.home.path} is already run by process {path.read_text()}.")
        lock.truncate()
        lock.write(str(os.getpid()).encode())
        lock.flush()
        self._launcher_lock = lock

    def _leftovers_gone(self) -> BinaryIO:
        """Wait for what is left of a server that was killed, or whose launcher was.

        This lock is inherited by all processes of the server and so is free exactly when the last is gone.
        """
        lock = self.home.lock("server.lock", seconds=_LEFTOVER_SECONDS)
        if lock is None:
            raise EmbeddedError(f"Processes of the last {self.name} in {self.home.path} have not ended yet.")
        return lock

    def _choose_port(self) -> int:
        if self._wanted_port is not None:
            ports.check(self._wanted_port)
            return self._wanted_port
        try:
            last = int((self.home.path / "port").read_text())
        except (FileNotFoundError, ValueError):
            return ports.free_port()
        return last if ports.is_free(last) else ports.free_port()

    def _spawn(self, command: Sequence[str | Path], text: str, lock: BinaryIO) -> subprocess.Popen[bytes]:
        with self.home.open(self._log, os.O_APPEND) as log:
            process = spawn(command, self.home, text=text, log=log, lock=lock, death_signal=self.death_signal)
        self._process = process
        return process

    def _run(self, command: Sequence[str | Path], text: str, lock: BinaryIO) -> None:
        """Run a program of the server to its end."""
        process = self._spawn(command, text, lock)
        try:
            process.wait(_START_SECONDS)
        except subprocess.TimeoutExpired:
            raise EmbeddedError(f"{command[0]} did not end in {_START_SECONDS} s. {self._last_words()}") from None
        if process.returncode != 0:
            raise EmbeddedError(f"{self.name} could not be set up. {self._last_words()}")

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._ready():
            if process.poll() is not None:
                raise EmbeddedError(f"{self.name} did not start. {self._last_words()}")
            if time.monotonic() > deadline:
                raise EmbeddedError(f"{self.name} did not answer in {_START_SECONDS} s. {self._last_words()}")
            time.sleep(0.02)

    def _last_words(self) -> str:
        lines = self._log.read_bytes()[-_LAST_BYTES:].decode(errors="replace").splitlines()
        last = " | ".join([line.strip() for line in lines if line.strip()][-_LAST_LINES:])
        return f"The end of {self._log}: {last}"


def package(name: str) -> Path:
    """Where a package is installed. Not imported: these packages load much that we do not use."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(f"The package {name.replace('_', '-')} is not installed.")
    return Path(spec.submodule_search_locations[0])
