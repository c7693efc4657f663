"""Starts a program of a server: as its account, away from the terminal, and never to outlive us."""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from signal import Signals
from typing import BinaryIO, Final

from infra.embedded.home import Home

_CHILD: Final = Path(__file__).with_name("child.py")


def spawn(
    command: Sequence[str | Path], home: Home, *, text: str, log: BinaryIO, lock: BinaryIO, death_signal: Signals
) -> subprocess.Popen[bytes]:
    """Return at once; `text` is its standard input, `lock` is held until the last process that it starts is gone."""
    uid, gid, reach = -1, -1, False
    if home.account is not None:
        uid, gid = home.account.uid, home.account.gid
        reach = not all(home.account.reaches(path) for path in (Path(command[0]).resolve(), home.path))
    become = [os.getpid(), death_signal.value, uid, gid, int(reach)]

    def start() -> subprocess.Popen[bytes]:
        with tempfile.TemporaryFile() as given:
            given.write(text.encode())
            given.seek(0)
            return subprocess.Popen(  # noqa: S603 - no shell, and the command is ours
                [sys.executable, "-I", "-S", _CHILD, *map(str, become), *command],
                cwd=home.path,
                env={"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath},  # no PGPORT and its like of the user's
                stdin=given,
                stdout=log,
                stderr=log,
                pass_fds=[lock.fileno()],
                # Ctrl-C in a terminal is for the launcher, which knows in what order to stop.
                start_new_session=True,
            )

    # The kernel's signal at our death comes already when the *thread* that forked ends. So each process has
    # a thread of its own that lasts as long as it, and anything may call us from any thread.
    started: Future[subprocess.Popen[bytes]] = Future()
    threading.Thread(target=_keep, args=(start, started), name="embedded server", daemon=True).start()
    return started.result()


def _keep(start: Callable[[], subprocess.Popen[bytes]], started: Future[subprocess.Popen[bytes]]) -> None:
    try:
        process = start()
    except BaseException as error:  # noqa: BLE001 - for whoever waits
        started.set_exception(error)
    else:
        started.set_result(process)
        process.wait()
