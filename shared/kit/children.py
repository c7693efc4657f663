"""Child processes of jobs: each command is a process group, and none of them outlives this process."""

import atexit
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Lock
from typing import IO
from uuid import uuid4

from shared.kit import guard

_LOOK = 0.02
"""Seconds between two looks at whether a group has ended."""


class _Guard:
    """The guard process (see guard.py), started with the first command; all guarded by `_lock`."""

    def __init__(self) -> None:
        self.mark = uuid4().hex
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._left: set[int | str] = set()

    def began(self, what: int | str) -> None:
        """A process group, or a container as guard.py wants it."""
        with self._lock:
            self._left.add(what)
            self._say(f"+{what}\n")

    def ended(self, what: int | str) -> None:
        with self._lock:
            self._left.discard(what)
            self._say(f"-{what}\n")

    def ready(self) -> None:
        """Before a command is started: should this process die in the next moment, somebody knows its mark."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._forget()
                self._start()

    def stop(self) -> None:
        """It ends, and with it what is left of commands."""
        with self._lock:
            if not self._left:
                self._say(guard.FAREWELL)
            self._forget()

    def _start(self) -> None:
        command = [sys.executable, "-I", "-S", str(Path(guard.__file__)), self.mark]
        self._process = subprocess.Popen(  # noqa: S603  # ours
            command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True, env={}, cwd="/"
        )
        for what in self._left:
            self._say(f"+{what}\n")

    def _forget(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.wait()

    def _say(self, line: str) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with suppress(OSError):  # it was killed: the next command starts another, which is told all
            self._process.stdin.write(line.encode())


_guard = _Guard()
keep_guard, began, ended = _guard.ready, _guard.began, _guard.ended
"""For what else has to end with this process."""
stop_guard = _guard.stop
atexit.register(stop_guard)
_numbers = count(1)


class Child:
    """A command that runs, in a session and process group of its own. `end` has to be called, whatever happens.

    Raises OSError if it cannot be started.
    """

    def __init__(self, command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> None:
        _guard.ready()
        self._mark = f"{_guard.mark}-{next(_numbers)}."
        self._process = subprocess.Popen(  # noqa: S603  # a handler's, as a list: no shell reads it
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**environment, guard.VARIABLE: self._mark},
            start_new_session=True,
            bufsize=0,
        )
        _guard.began(self._process.pid)

    @property
    def output(self) -> IO[bytes]:
        assert self._process.stdout is not None  # noqa: S101  # it was asked for
        return self._process.stdout

    @property
    def status(self) -> int | None:
        """As subprocess has it: negative is a signal's number. None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int | None:
        """The status, as soon as there is one; None if there is none within this time."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def end(self, grace: float) -> None:
        """Ends what is left of it: SIGTERM to all of the group, after `grace` seconds SIGKILL. Then it has ended."""
        try:
            if self._alive():
                guard.send(signal.SIGTERM, {self._process.pid}, self._mark)
                until = time.monotonic() + grace
                while self._alive() and time.monotonic() < until:
                    time.sleep(_LOOK)
        finally:  # also when this thread is made to leave the wait
            guard.send(signal.SIGKILL, {self._process.pid}, self._mark)
            self.output.close()
            self._process.wait()
            _guard.ended(self._process.pid)

    def _alive(self) -> bool:
        # as long as the command itself runs nobody need look through all processes; and where zombies cannot be told
        # from others, ours would count
        return self._process.poll() is None or guard.living(self._process.pid, self._mark)
