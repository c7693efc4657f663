"""A viewer in a process of its own, which may be stopped and go on, as a laptop that is closed and opened again.

    python -m tests.support.distant

It is told on its standard input who it is, and then what to do; it says what it has seen, and in the end all of it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from threading import Thread
from typing import IO, Any
from uuid import UUID

import msgspec
from msgspec import Struct

from shared.event_ids import Filters
from tests.support.history import History, Recording, check_recording
from tests.support.viewers import Habits, Viewer


class _Who(Struct):
    addresses: list[str]
    batch_id: UUID
    token: str
    name: str
    filters: Filters
    habits: Habits


class _Said(Struct):
    version: int
    recording: Recording | None = None


class Distant:
    """Does what a viewer does, from afar; its `recording` is there once it has left or come to the end."""

    def __init__(
        self, addresses: Sequence[str], batch_id: UUID, token: str, name: str, filters: Filters, habits: Habits
    ) -> None:
        self.recording = Recording(name, filters)
        self.slow = True
        """Nobody is to wait for it: it may be stopped."""
        self._version = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self._tell(msgspec.json.encode(_Who(list(addresses), batch_id, token, name, filters, habits)))
        self._listener = Thread(target=self._listen, args=(self._process.stdout,), name=name)
        self._listener.start()

    @property
    def version(self) -> int:
        """That it has seen."""
        return self._version

    def has(self, version: int) -> bool:
        assert not self.recording.failure, f"{self.recording.name}: {self.recording.failure}"
        return self._version >= version

    def where(self) -> str:
        return f"who {self.recording.name}, at version {self._version}"

    def stop(self) -> None:
        """It reads nothing, says nothing and knows nothing until it goes on."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def leave(self) -> None:
        """Wherever it is."""
        if self._listener.is_alive():
            self.go_on()
            self._tell(b"leave")

    def stay_to_the_end(self, version: int) -> None:
        self._tell(b"stay %d" % version)

    def join(self, until: float) -> bool:
        self._listener.join(max(0.0, until - time.monotonic()))
        return not self._listener.is_alive()

    def check(self, history: History, *, finished: bool, **allowed: Any) -> None:
        """Once it has left. As for `check_recording`."""
        check_recording(self.recording, history, finished=finished, **allowed)

    def _tell(self, what: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ValueError):  # it has come to the end
            self._process.stdin.write(what + b"\n")
            self._process.stdin.flush()

    def _listen(self, output: IO[bytes]) -> None:
        with output:
            for line in output:
                said = msgspec.json.decode(line, type=_Said)
                self._version = said.version
                if said.recording is not None:
                    self.recording = said.recording
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()


def _main() -> None:
    orders = FileIO(sys.stdin.fileno(), closefd=False)  # no buffer, whose lock would be held in the end
    who = msgspec.json.decode(orders.readline(), type=_Who)
    viewer = Viewer(who.addresses, who.batch_id, who.token, who.name, who.filters, who.habits)
    Thread(target=_obey, args=(viewer, orders), daemon=True).start()
    said = -1
    while not viewer.join(time.monotonic() + 0.02):
        if viewer.version > said:
            said = viewer.version
            _say(_Said(said))
    _say(_Said(viewer.version, viewer.recording))


def _obey(viewer: Viewer, orders: FileIO) -> None:
    for line in orders:
        order, *version = line.split()
        {b"leave": viewer.leave, b"stay": viewer.stay_to_the_end}[order](*map(int, version))
    viewer.leave()  # whoever started it is gone


def _say(what: _Said) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
