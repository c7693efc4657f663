"""What the embedded servers have in common: directory, locks, port, account, start and stop."""

import fcntl
import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from signal import SIGKILL, Signals
from typing import BinaryIO, ClassVar, Final

from infra.embedded import ports
from infra.embedded.account import Account
from infra.embedded.errors import EmbeddedError

_START_SECONDS: Final = 60  # crash recovery after a long run may take a while
_LEFTOVER_SECONDS: Final = 10  # backends of a killed postmaster leave when they next look up
_CHILD: Final = Path(__file__).with_name("child.py")
_LAST_LINES: Final = 4
_LAST_BYTES: Final = 4096


class Server:
    """One server in one directory (mode 0700), listening on the loopback address only.

    `port` None: the port of the last run if free, else another; after each `start()` ask `url` anew.
    `url` is empty and `pid` 0 before the first start. Not for several threads at once.

    On Linux the server ends when its launcher does, however that dies. Elsewhere only `stop()` ends it.
    """

    name: ClassVar[str]
    # What the kernel sends when the launcher is gone: the quickest end that loses nothing.
    death_signal: ClassVar[Signals]
    # How to stop: each signal, and how many seconds to wait before the next.
    stop_signals: ClassVar[tuple[tuple[Signals, float], ...]]

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self.directory = directory.resolve()
        self.port = 0
        self.url = ""
        self.pid = 0
        self._wanted_port = port
        self._account: Account | None = None
        self._log = self.directory / "server.log"
        self._launcher_lock: BinaryIO | None = None
        self._server_lock: BinaryIO | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when the server accepts connections; nothing happens when it does already.

        Raises EmbeddedError, after which nothing is left running.
        """
        if self.alive():
            return
        try:
            self._take_directory()
            self._bring_up()
        except OSError as error:
            self.stop()
            raise EmbeddedError(
                f"{self.name} cannot use {error.filename or self.directory}: {error.strerror}."
            ) from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._process is not None:
            for number, patience in (*self.stop_signals, (SIGKILL, None)):
                self._process.send_signal(number)
                try:
                    self._process.wait(patience)
                    break
                except subprocess.TimeoutExpired:
                    continue
            self._process = None
        for lock in (self._server_lock, self._launcher_lock):
            if lock is not None:
                lock.close()
        self._server_lock = self._launcher_lock = None

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # What a server fills in.

    def _prepare(self) -> None:
        """Make what the server needs and set `url`; `port` is known, nobody else uses the directory."""
        raise NotImplementedError

    def _command(self) -> list[str | Path]:
        raise NotImplementedError

    def _input(self) -> str:
        """What the server reads from its standard input."""
        return ""

    def _ready(self) -> bool:
        raise NotImplementedError

    # What a server may use.

    def _run(self, command: list[str | Path], text: str = "") -> None:
        """Run a program of the server to its end, with `text` as its standard input."""
        process = self._spawn(command, text)
        if process.wait(_START_SECONDS) != 0:
            raise EmbeddedError(self._obituary(process))

    def _write(self, path: Path, text: str) -> None:
        """All of it or nothing, mode 0600."""
        new = path.with_name(f"{path.name}.new")
        with self._open(new) as file:
            file.truncate()
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)

    # The rest is how.

    def _take_directory(self) -> None:
        """A second launcher is told at once; the rest of a killed server is waited for.

        The launcher's lock goes with the launcher. The server's is inherited by all its processes, so it
        is free exactly when the last of them is gone, whoever started or killed them.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        self._account = Account.owning(self.directory)
        if self._launcher_lock is None:
            lock = self._open(self.directory / "launcher.lock")
            if not _lock(lock, seconds=0):
                holder = lock.read().decode()
                lock.close()
                raise EmbeddedError(f"{self.name} in {self.directory} is already run by process {holder}.")
            lock.truncate()
            lock.write(str(os.getpid()).encode())
            lock.flush()
            self._launcher_lock = lock
        self._server_lock = self._open(self.directory / "server.lock")
        if not _lock(self._server_lock, seconds=_LEFTOVER_SECONDS):
            raise EmbeddedError(f"Processes of the last {self.name} in {self.directory} have not ended yet.")

    def _bring_up(self) -> None:
        if self._log.exists():
            self._log.replace(self._log.with_name("previous.log"))
        self.port = self._choose_port()
        self._prepare()
        process = self._spawn(self._command(), self._input())
        if self._server_lock is not None:
            self._server_lock.close()  # the server has its copy
            self._server_lock = None
        self.pid = process.pid
        deadline = time.monotonic() + _START_SECONDS
        while not self._ready():
            if process.poll() is not None:
                raise EmbeddedError(self._obituary(process))
            if time.monotonic() > deadline:
                raise EmbeddedError(f"{self.name} did not answer in {_START_SECONDS} s. {self._last_words()}")
            time.sleep(0.02)
        self._write(self.directory / "port", str(self.port))

    def _choose_port(self) -> int:
        if self._wanted_port is not None:
            ports.check(self._wanted_port)
            return self._wanted_port
        try:
            last = int((self.directory / "port").read_text())
        except (FileNotFoundError, ValueError):
            return ports.free_port()
        return last if ports.is_free(last) else ports.free_port()

    def _spawn(self, command: list[str | Path], text: str) -> subprocess.Popen[bytes]:
        uid, gid, reach = -1, -1, False
        if self._account is not None:
            uid, gid = self._account.uid, self._account.gid
            reach = not (self._account.reaches(Path(command[0])) and self._account.reaches(self.directory))
        become = [os.getpid(), self.death_signal.value, uid, gid, int(reach)]

        def spawn() -> subprocess.Popen[bytes]:
            with tempfile.TemporaryFile() as given, self._open(self._log, os.O_APPEND) as log:
                given.write(text.encode())
                given.seek(0)
                return subprocess.Popen(  # noqa: S603 - no shell, and the command is ours
                    [sys.executable, "-I", "-S", _CHILD, *map(str, become), *command],
                    cwd=self.directory,
                    env={"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath},  # no PGPORT and its like of the user's
                    stdin=given,
                    stdout=log,
                    stderr=log,
                    pass_fds=[self._server_lock.fileno()] if self._server_lock else [],
                    # Ctrl-C in a terminal is for the launcher, which knows in what order to stop.
                    start_new_session=True,
                )

        # The kernel's signal at the launcher's death comes already when the *thread* that forked ends. So each
        # server has a thread of its own that lasts as long as it, and `start()` may be called from any.
        spawned: Future[subprocess.Popen[bytes]] = Future()
        threading.Thread(target=_keep, args=(spawn, spawned), name=f"{self.name} keeper", daemon=True).start()
        self._process = spawned.result()
        return self._process

    def _open(self, path: Path, flags: int = 0) -> BinaryIO:
        """For reading and writing, made with mode 0600 for the server's account."""
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | flags, 0o600)
        if self._account is not None:
            os.fchown(number, self._account.uid, self._account.gid)
        return os.fdopen(number, "r+b")

    def _obituary(self, process: subprocess.Popen[bytes]) -> str:
        return f"{self.name} did not start (exit status {process.returncode}). {self._last_words()}"

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


def _keep(spawn: Callable[[], subprocess.Popen[bytes]], spawned: Future[subprocess.Popen[bytes]]) -> None:
    try:
        process = spawn()
    except BaseException as error:  # noqa: BLE001 - for whoever waits
        spawned.set_exception(error)
    else:
        spawned.set_result(process)
        process.wait()


def _lock(file: BinaryIO, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        else:
            return True
