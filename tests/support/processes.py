"""Our services as the real processes that they are in production."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from shared.settings import Settings, variable
from tests.support.batches import wait_for

_numbers = count(1)

_KEYS = ("HEADWAY_SECRET", "HEADWAY_TICKET_KEY", "HEADWAY_TICKET_KEY_OLD")
_KEYLESS = ("services.worker", "infra.workers")


def environment(settings: Settings) -> dict[str, str]:
    """What a process needs to run with these settings."""
    values = {variable(name): getattr(settings, name) for name in Settings.__struct_fields__}
    ours = {name: str(value) for name, value in values.items() if value is not None}
    others = {name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_")}
    return others | ours


def end(process: subprocess.Popen[Any], seconds: float = 10) -> None:
    """By SIGTERM. Raises TimeoutExpired if that takes longer, and it has ended all the same."""
    process.terminate()
    try:
        process.wait(seconds)
    finally:
        process.kill()
        process.wait()


@contextmanager
def service(
    module: str, *arguments: str, settings: Settings, more: Mapping[str, str] | None = None, within: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m module arguments`; killed at the end if it still lives.

    `more`: what its environment holds besides. `within`: a command that becomes the one behind it.
    """
    command = [*within, sys.executable, "-m", module, *arguments]
    given = environment(settings)
    if module in _KEYLESS:
        given = {name: value for name, value in given.items() if name not in _KEYS}
    process = subprocess.Popen(command, env=given | dict(more or {}))
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait(10)


@contextmanager
def worker(settings: Settings, directory: Path, queue: str = "default") -> Iterator[subprocess.Popen[bytes]]:
    """A worker process that takes jobs already."""
    ready = directory / f"ready-{next(_numbers)}"
    with service("services.worker", "--queue", queue, "--ready-file", str(ready), settings=settings) as process:
        wait_for(lambda: ready.exists() or process.poll() is not None, "the worker to be ready")
        assert process.poll() is None, "the worker did not start"
        yield process
