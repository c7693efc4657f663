"""`run`: a command as a part of a job. Its lines are the job's, and its processes end with the job."""

import os
import select
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from shared.kit.children import Child
from shared.trace import trace_environment
from shared.updates import Fatal, JobError, Log, Retryable, Update, Updates

GRACE = 3.0
"""Seconds that a command gets to end by itself. With what it takes to hear of a cancel it stays below the five that a
handler has."""

LONGEST = 64 * 1024
"""Bytes of a line that are kept; what follows up to its end is left out."""

_LOOK = 0.05
"""Seconds of silence after which a handler that waits for its command may be ended."""

_REST = 1.0
_MORE = 2**20
"""Seconds of silence, and bytes, after which the output of a command that has ended counts as over: what it left
running in the background may hold it open."""

_CHUNK = 64 * 1024

_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR")
"""Of the worker's environment. The rest holds the keys of this installation."""

_HOPELESS = (FileNotFoundError, PermissionError, NotADirectoryError, ValueError)


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path | str = "/",
    env: Mapping[str, str] | None = None,
    check: bool = True,
    each: Callable[[str], Update | None] = Log,
    grace: float = GRACE,
) -> Updates[int]:
    """Runs a command, given as a list of its arguments: no shell reads it.

    Each line of its output, errors included, becomes what `each` makes of it: a line of the job's log, or Progress, or
    nothing. `env` is added to what little of the worker's environment is passed on. Returns the exit status, negative
    for a signal; with `check` any but 0 raises JobError(code="command_failed"). Its whole process group ends with it,
    and with the job: SIGTERM, and SIGKILL after `grace` seconds. Raises Fatal if there is no such command.
    """
    if isinstance(command, str | bytes):
        raise TypeError("a command is a list of its arguments: no shell reads it")
    arguments = [os.fspath(argument) for argument in command]
    name = Path(arguments[0]).name
    child = _start(arguments, Path(cwd), dict(env or {}))
    return (yield from follow(child, name, check=check, each=each, grace=grace))


class Followed(Protocol):
    """What runs and says something: a Child, or what else is to be followed like one."""

    @property
    def output(self) -> IO[bytes]:
        """The end of a pipe."""

    @property
    def status(self) -> int | None:
        """None while it runs."""

    def wait(self, seconds: float) -> int | None:
        """The status, if there is one within this time."""

    def end(self, grace: float) -> None:
        """However far it is."""


def follow(
    child: Followed, name: str, *, check: bool, each: Callable[[str], Update | None], grace: float
) -> Updates[int]:
    """What `run` does once it has started something."""
    last = ""
    try:
        for line in _lines(child):
            if line is None:
                yield None
                continue
            last = line or last
            yield each(line)
        status = child.status
        while status is None:  # it closed its output, and goes on
            yield None
            status = child.wait(_LOOK)
    finally:
        child.end(grace)
    if check and status:
        raise JobError(_failure(name, status, last), code="command_failed")
    return status


def _start(arguments: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Child:
    kept = {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith("LC_")}
    try:
        return Child(arguments, cwd=cwd, environment={**kept, **trace_environment(), **env})
    except _HOPELESS as error:
        raise Fatal(f"{arguments[0]} cannot be run: {error}", code="command_not_started") from error
    except OSError as error:
        raise Retryable(f"{arguments[0]} cannot be run: {error}", code="command_not_started") from error


def _lines(child: Followed) -> Iterator[str | None]:
    """The output, line by line; None now and then while there is none."""
    ready = select.poll()
    ready.register(child.output, select.POLLIN)
    rest, silent, more = b"", 0.0, _MORE
    while more > 0:
        if not ready.poll(_LOOK * 1000):
            silent += _LOOK
            if child.status is not None and silent >= _REST:
                break
            yield None
            continue
        silent = 0.0
        data = os.read(child.output.fileno(), _CHUNK)
        if not data:
            break
        if child.status is not None:
            more -= len(data)
        *lines, end = data.split(b"\n")
        for line in lines:
            yield _text(rest + line)
            rest = b""
        rest = (rest + end)[: LONGEST + 1]
        if not lines:
            yield None
    if rest:
        yield _text(rest)


def _text(line: bytes) -> str:
    """As a terminal would show it in the end: of what was written over with a carriage return, the last."""
    shown = line.rstrip(b"\r").rpartition(b"\r")[2]
    return shown[:LONGEST].decode(errors="replace")


def _failure(name: str, status: int, last: str) -> str:
    how = f"ended with status {status}"
    if status < 0:
        how = f"was ended by {signal.Signals(-status).name}"
    return f"{name} {how}: {last}" if last else f"{name} {how}"
