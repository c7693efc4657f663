"""Ports that this process has for itself, among the test processes of one machine."""

import fcntl
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

from infra.embedded.ports import free_port

_TRIES = 100
_held: list[BinaryIO] = []
"""Their locks go with the process, however it ends."""


def own_port() -> int:
    """A free port that no other test process is given before this one has ended, so a server may come back to it."""
    directory = Path(tempfile.gettempdir()) / f"headway-test-ports-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    for _ in range(_TRIES):
        port = free_port()
        lock = (directory / str(port)).open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _held.append(lock)
        return port
    raise AssertionError(f"{_TRIES} free ports were all somebody else's")
