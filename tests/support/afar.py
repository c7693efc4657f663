"""A stream service at the other end of a cable that can be pulled out: nobody says goodbye, and no packet arrives.

    python -m tests.support.afar CONTROL

The service itself runs as always, but it listens in a network of its own, in which there is nothing but a cable to
another, where the clients are. A process can be in several networks, since each of its sockets belongs to just one.
"""

import ctypes
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

from services.stream.__main__ import start
from shared.settings import Settings
from shared.web import serve
from shared.web.serve import run_service
from tests.support.batches import wait_for
from tests.support.needs import needs
from tests.support.processes import environment

_SERVICE, _CLIENTS = "10.9.8.1", "10.9.8.2"
_PORT = 80
_NEWNET = 0x40000000
"""CLONE_NEWNET of <sched.h>."""


class Afar:
    """For a test: the service, the cable, and connections over it."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._control.settimeout(30)
        self._answer()  # it listens

    def connect(self) -> socket.socket:
        """Over the cable, and in place of one that a process of the test would have made."""
        self._control.sendall(b"c")
        _, (fd,), _, _ = socket.recv_fds(self._control, 1, 1)
        return socket.socket(fileno=fd)

    def pull(self) -> None:
        """The cable is out."""
        self._control.sendall(b"p")
        self._answer()

    def plug(self) -> None:
        """It is in again."""
        self._control.sendall(b"i")
        self._answer()

    def _answer(self) -> None:
        assert self._control.recv(1) == b".", "the service afar has ended"


@contextmanager
def afar(settings: Settings) -> Iterator[Afar]:
    """The test is skipped where nobody may make networks (in CI it fails)."""
    within = [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]
    trial = [*within, "unshare", "--net", "ip", "link", "add", "near", "type", "veth", "peer", "name", "far"]
    needs("network of its own for a process", there=_works(trial))
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [*within, sys.executable, "-m", __spec__.name, str(theirs.fileno())],
        env=environment(settings),
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    try:
        with ours:
            yield Afar(ours)
    finally:
        process.kill()
        process.wait(10)


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except FileNotFoundError:
        return False


# -- the process ------------------------------------------------------------------------------------------------------


class _Network:
    """One that lives as long as this process."""

    def __init__(self) -> None:
        unshare, cat = str(shutil.which("unshare")), str(shutil.which("cat"))
        self._process = subprocess.Popen([unshare, "--net", cat], stdin=subprocess.PIPE)  # it ends with its input
        self.name = Path(f"/proc/{self._process.pid}/ns/net")
        self.pid = self._process.pid
        ours = Path("/proc/self/ns/net").readlink()
        wait_for(lambda: self.name.readlink() != ours, "a network")

    def ip(self, *words: str) -> None:
        command = [str(shutil.which("nsenter")), f"--net={self.name}", str(shutil.which("ip")), *words]
        subprocess.run(command, check=True)

    def inside(self, do: Callable[[], Any]) -> Any:
        """What comes of it. A thread can be in another network than its process."""
        came: list[Any] = []
        thread = Thread(target=lambda: came.append((self._enter(), do())[1]))
        thread.start()
        thread.join()
        return came[0]

    def _enter(self) -> None:
        with self.name.open() as name:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.setns(name.fileno(), _NEWNET) == 0, os.strerror(ctypes.get_errno())


def _main(control: socket.socket) -> int:
    here, there = _Network(), _Network()
    here.ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(there.pid))
    for network, device, address in ((here, "near", _SERVICE), (there, "far", _CLIENTS)):
        network.ip("address", "add", f"{address}/30", "dev", device)
        network.ip("link", "set", device, "up")
    listen = serve._listen

    def listen_here(*arguments: Any) -> socket.socket:
        listener: socket.socket = here.inside(lambda: listen(_SERVICE, _PORT, *arguments[2:]))
        control.sendall(b".")
        return listener

    serve._listen = listen_here
    Thread(target=_obey, args=(control, there), daemon=True).start()
    return run_service("stream", start)


def _obey(control: socket.socket, there: _Network) -> None:
    while said := control.recv(1):
        if said == b"c":
            client = there.inside(lambda: socket.create_connection((_SERVICE, _PORT), 10))
            client.settimeout(None)
            with client:
                socket.send_fds(control, [b"c"], [client.fileno()])
        else:
            there.ip("link", "set", "far", "down" if said == b"p" else "up")
            control.sendall(b".")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(_main(socket.socket(fileno=int(sys.argv[1]))))
