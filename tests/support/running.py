"""`headway run` as the process that it is, and what it says."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import IO

import msgspec

from infra.home import Running
from tests.support.batches import wait_for
from tests.support.ports import own_port

HEADWAY = [sys.executable, "-m", "infra.cli.main"]


def environment(home: Path, **more: str) -> dict[str, str]:
    """Nothing of ours but `home`, so that a developer's own settings do not count."""
    unset = {"DATABASE_URL", "REDIS_URL"}
    others = {
        name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_") and name not in unset
    }
    return {**others, "HEADWAY_HOME": str(home), **more}


def headway(home: Path, *arguments: str, seconds: float = 60, **more: str) -> subprocess.CompletedProcess[str]:
    """Any other command, to its end."""
    return subprocess.run(
        [*HEADWAY, *arguments],
        env=environment(home, **more),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


class Run:
    def __init__(self, home: Path, process: subprocess.Popen[str]) -> None:
        self.home = home
        self.process = process
        self.said: list[str] = []
        """Lines, so far."""
        assert process.stdout is not None
        self._listener = Thread(target=self._listen, args=(process.stdout,))
        self._listener.start()

    @property
    def text(self) -> str:
        return "".join(self.said)

    @property
    def running(self) -> Running:
        """What run.json says."""
        return msgspec.json.decode((self.home / "run.json").read_bytes(), type=Running)

    @property
    def pids(self) -> list[int]:
        return [pid for pids in self.running.pids.values() for pid in pids]

    def await_line(self, beginning: str, seconds: float = 60) -> str:
        """The rest of the first line that begins so."""

        def found() -> str | None:
            assert self.process.poll() is None or self.said, "it ended without a word"
            return next((line for line in self.said if line.startswith(beginning)), None)

        return str(wait_for(found, f"a line that begins with {beginning!r}", seconds)).removeprefix(beginning).strip()

    def stop(self, seconds: float = 20) -> int:
        """As Ctrl-C does; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(seconds)

    def headway(self, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        return headway(self.home, *arguments, seconds=seconds)

    def close(self) -> None:
        """It has ended: so does what it says."""
        self._listener.join(10)

    def _listen(self, output: IO[str]) -> None:
        with output:
            for line in output:
                self.said.append(line)


@contextmanager
def started(home: Path, *arguments: str, **more: str) -> Iterator[Run]:
    """`headway run`, ready; stopped at the end if it still runs."""
    process = subprocess.Popen(
        [*HEADWAY, "run", *arguments],
        # several of these may start at once, and the usual port is for one
        env=environment(home, **{"HEADWAY_PORT": str(own_port()), **more}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    run = Run(home, process)
    try:
        run.await_line("ready ")
        yield run
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()
            run.close()


def alive(pid: int) -> bool:
    """A process that has ended and was not yet asked about does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
