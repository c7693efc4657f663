"""Keeps processes alive: what ends without being asked to is started again, later each time if it keeps ending."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM
from threading import Event, Lock, Thread
from typing import Final, Protocol

from infra.embedded.errors import EmbeddedError
from infra.embedded.server import Server

_CHILD: Final = Path(__file__).parent / "embedded" / "child.py"

_BACKOFF: Final = (0.1, 5.0)
"""Seconds: the first wait before a restart, which doubles each time, and the longest."""

_STABLE: Final = 20.0
"""Seconds after which a process counts as having started well: the next wait is the first again."""

_OFTEN: Final = 5
"""Restarts in a row after which we say that this does not look good."""


class Part(Protocol):
    """Something that runs until it ends. `start`, `wait` and `clear` are called in turns, by one thread."""

    name: str

    def start(self) -> int:
        """The process id. Raises OSError or EmbeddedError."""

    def wait(self) -> str:
        """How it ended, once it has."""

    def signal(self, hard: bool) -> None:
        """Asks it to end, or ends it. From any thread, while it runs."""

    def clear(self) -> None:
        """It has ended and will not be started again."""


class Program:
    """One of our own programs, in a session of its own: Ctrl-C in a terminal is for us, who know in what order to stop.

    On Linux it dies with us, however we die. `log` None: it writes where we write. `ready_file`, which the program
    makes once it works, is removed before each start.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        log: Path | None = None,
        ready_file: Path | None = None,
    ) -> None:
        self.name = name
        self.environment = environment
        """Looked at by each start."""
        self.log = log
        self.ready_file = ready_file
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        if self.ready_file is not None:
            self.ready_file.unlink(missing_ok=True)
        tie = [sys.executable, "-I", "-S", str(_CHILD), str(os.getpid()), str(SIGKILL.value), "-1", "-1", "0"]
        with contextlib.ExitStack() as files:
            output = None if self.log is None else files.enter_context(self.log.open("ab"))
            self._process = subprocess.Popen(  # noqa: S603 - no shell, and the command is ours
                [*tie, sys.executable, *self._arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self._process.pid

    def wait(self) -> str:
        assert self._process is not None  # noqa: S101 - it was started
        status = self._process.wait()
        return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"

    def signal(self, hard: bool) -> None:
        if self._process is not None and self._process.poll() is None:
            # its session, that is, with whatever it has started itself
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, SIGKILL if hard else SIGTERM)

    def clear(self) -> None:
        if self.ready_file is not None:
            self.ready_file.unlink(missing_ok=True)


class EmbeddedServer:
    """An embedded server, which comes back on its port."""

    _PERIOD = 0.1
    """Seconds between two looks at it."""

    def __init__(self, make: Callable[[int | None], Server]) -> None:
        """`make` gets the port, or None for the first start."""
        self._make = make
        self.server = make(None)
        self.name = self.server.name

    def start(self) -> int:
        if self.server.port:
            self.server.stop()  # gives the directory back
            self.server = self._make(self.server.port)
        self.server.start()
        return self.server.pid

    def wait(self) -> str:
        while self.server.alive():
            time.sleep(self._PERIOD)
        return "ended"

    def signal(self, hard: bool) -> None:
        # Not by its `stop`, which is not for several threads; `clear` calls that.
        number, _ = self.server.stop_signals[-1 if hard else 0]
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.server.pid, number)

    def clear(self) -> None:
        self.server.stop()


class Keeper:
    """Keeps one part alive, in a thread of its own: on Linux a child dies with the thread that started it."""

    def __init__(self, part: Part, *, changed: Callable[[], None], say: Callable[[str], None]) -> None:
        """`changed` is called after each start, `say` with a sentence when it went wrong; both from any thread."""
        self.part = part
        self.pid = 0
        self.failures = 0
        """Ends that nobody asked for, since it last ran well."""
        self.trouble = ""
        """How the last of them came about."""
        self._changed = changed
        self._say = say
        self._lock = Lock()
        self._renewing = False
        self._stopping = Event()
        self._up = Event()
        self._thread = Thread(target=self._keep, name=f"keeps {part.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def await_started(self) -> None:
        """Until the first attempt to start has come to something; see `failures`."""
        self._up.wait()

    def renew(self) -> None:
        """Ends the process so that it is started again, now."""
        with self._lock:
            if self.pid:
                self._renewing = True
                self.part.signal(hard=False)

    def end(self) -> None:
        """Ends the process, which does not react any more; it is started again."""
        with self._lock:
            if self.pid:
                self.part.signal(hard=True)

    @contextlib.contextmanager
    def between_starts(self) -> Iterator[int]:
        """No process is being started meanwhile; the id of the one that there is, or 0."""
        with self._lock:
            yield self.pid

    def stop(self, *, hard: bool = False) -> None:
        """Asks the process to end, for good. Does not wait."""
        self._stopping.set()
        with self._lock:
            if self.pid:
                self.part.signal(hard)

    def ended(self, seconds: float) -> bool:
        """Whether all is over after at most so many seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _keep(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            how = self._run_once()
            if self._stopping.is_set():
                break
            if self._renewing:
                self._renewing = False
                continue
            self.failures = 1 if time.monotonic() - began > _STABLE else self.failures + 1
            self.trouble = f"{self.part.name} {how}"
            self._up.set()
            often = f"; that is {self.failures} times now" if self.failures % _OFTEN == 0 else ""
            self._say(f"{self.trouble}, it is started again{often}")
            first, longest = _BACKOFF
            self._stopping.wait(min(longest, first * 2 ** (self.failures - 1)))
        self.part.clear()

    def _run_once(self) -> str:
        with self._lock:
            if self._stopping.is_set():
                return ""
            try:
                self.pid = self.part.start()
            except (OSError, EmbeddedError) as error:
                return f"did not start: {error}"
        self._changed()
        self._up.set()
        how = self.part.wait()
        with self._lock:
            self.pid = 0
        return how


def stop_all(keepers: Sequence[Keeper], patience: float, hurry: Event) -> None:
    """Ends them all at once; hard those that are left after `patience` seconds, or when `hurry` is set."""
    _signal(keepers, hard=False)
    until = time.monotonic() + patience
    while time.monotonic() < until and not hurry.is_set():
        if all(keeper.ended(0.02) for keeper in keepers):
            return
    left = [keeper for keeper in keepers if not keeper.ended(0)]
    _signal(left, hard=True)
    for keeper in left:
        keeper.ended(5)


def _signal(keepers: Sequence[Keeper], *, hard: bool) -> None:
    for keeper in keepers:
        # in threads: one that is just being started has to be waited for
        Thread(target=keeper.stop, kwargs={"hard": hard}, daemon=True).start()
