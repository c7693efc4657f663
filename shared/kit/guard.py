"""`python guard.py MARK`: the process that outlives one that ran commands, to end what these left.

It is told the process groups of commands, one a line: `+4711` one has begun, `-4711` it has ended. When its input ends
without a farewell, however the process died that held the other end, it kills those that are left, and whatever carries
MARK in its environment: what got itself a group of its own. Only the standard library, so that it starts quickly.
"""

import http.client
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

VARIABLE = "_HEADWAY_RUN"
"""Of the environment of all that a command starts; begins with the mark of the process that runs the command."""

FAREWELL = "over\n"
"""Told at an end that was planned, when nothing is left."""

_PATIENCE = 10
"""Seconds for an engine's answer."""

_LOOKS = 5
_PAUSE = 0.1
"""How often, and how many seconds apart, what is left is looked for: it may be starting something meanwhile."""


def living(group: int, mark: str) -> bool:
    """Whether anything of a command is left but zombies, which wait for somebody else."""
    if Path("/proc/self").exists():
        return bool(_found({group}, mark))
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def send(number: signal.Signals, groups: set[int], mark: str) -> None:
    """To all that is left. What does not exist any more, or is somebody else's by now, is left alone."""
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
    for process in _found(set(), mark):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def _found(groups: set[int], mark: str) -> list[int]:
    """The processes of these groups, and those that were started with the mark; none where there is no /proc."""
    wanted = f"{VARIABLE}={mark}".encode()
    found = []
    with suppress(OSError):
        for number in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208  # many times quicker
            with suppress(OSError):
                process = Path("/proc", number)
                state, _, group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
                if state not in "ZX" and (int(group) in groups or _carries(process, wanted)):
                    found.append(int(number))
    return found


def _carries(process: Path, variable: bytes) -> bool:
    return any(value.startswith(variable) for value in (process / "environ").read_bytes().split(b"\0"))


class _Engine(http.client.HTTPConnection):
    """A Docker engine's API, without its SDK. `address` as in DOCKER_HOST; by TLS it cannot be reached from here."""

    def __init__(self, address: str) -> None:
        scheme, _, self._place = address.partition("://")
        self._local = scheme == "unix"
        super().__init__("localhost" if self._local else self._place, timeout=_PATIENCE)

    def connect(self) -> None:
        if not self._local:
            return super().connect()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_PATIENCE)
        return self.sock.connect(self._place)


def remove_container(address: str, container: str) -> None:
    """With the anonymous volumes that it had. What is gone, or cannot be reached, is left alone."""
    engine = _Engine(address)
    with suppress(OSError, http.client.HTTPException):
        engine.request("DELETE", f"/containers/{container}?force=1&v=1")
        engine.getresponse().read()
    engine.close()


def main(mark: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    left: set[str] = set()
    for line in sys.stdin:
        if line == FAREWELL:
            return
        (left.add if line[0] == "+" else left.discard)(line[1:-1])
    groups = {int(what) for what in left if what.isdigit()}
    for _ in range(_LOOKS):
        send(signal.SIGKILL, groups, mark)
        time.sleep(_PAUSE)
    for what in left:
        address, _, container = what.rpartition("#")
        if address:
            remove_container(address, container)


if __name__ == "__main__":
    main(sys.argv[1])
