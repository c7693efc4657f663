"""Processes of a measurement: they say `ready`, begin at a line, and end with their standard input."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO

from shared.settings import Settings
from tests.support.processes import environment

_LEAVES_IN = 20
"""Seconds."""


class Child:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def say(self, line: str = "") -> None:
        given = self.process.stdin
        assert given is not None
        given.write(f"{line}\n")
        given.flush()

    def hear(self) -> str:
        """The next line. Raises EOFError if it ended instead."""
        said: IO[str] | None = self.process.stdout
        assert said is not None
        if not (line := said.readline()):
            raise EOFError("a process of the measurement ended")
        return line.rstrip("\n")


@contextmanager
def child(module: str, *arguments: str, settings: Settings) -> Iterator[Child]:
    """Started, and not waited for."""
    with program([sys.executable, "-m", module, *arguments], environment(settings)) as started:
        yield started


@contextmanager
def program(command: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[Child]:
    """The same of any command. `env` None: what this process has."""
    process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Child(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(_LEAVES_IN)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # it ended before it took what was said to it
                    pipe.close()


@contextmanager
def workers(side: str, settings: Settings, count: int = 1) -> Iterator[list[Child]]:
    """Worker processes (see worker.py), loaded; they begin when told."""
    with ExitStack() as stack:
        started = [stack.enter_context(child("tests.bench.worker", side, settings=settings)) for _ in range(count)]
        for one in started:
            assert one.hear() == "ready"
        yield started
