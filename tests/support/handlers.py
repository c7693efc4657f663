"""Driving a handler, or a part of one, without a worker; and processes that it may leave."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

from shared.updates import Update

LEAVES = "echo $$; sleep 300 & echo $!; setsid sleep 300 & echo $!; {then}"
"""A shell that says which three processes it is: itself, a child of its own, and one in a session of its own."""


def driven(generator: Generator[Update | None, None, Any]) -> tuple[list[Update], Any]:
    """What it said to its end, and its result."""
    said: list[Update] = []
    while True:
        try:
            update = next(generator)
        except StopIteration as stop:
            return said, stop.value
        if update is not None:
            said.append(update)


def lives(process: int) -> bool:
    """Zombies, for which somebody else is to wait, do not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
