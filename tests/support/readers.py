"""Readers of event streams that others wrote: the npm packages `eventsource` and `eventsource-parser`, on Node.js.

What they are told is the same as what our own strict parser reads, or a test fails.
"""

import json
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import IO, Any, Literal, Self

import msgspec

from tests.support.batches import wait_for
from tests.support.needs import needs, program
from tests.support.sse import Event, Parser, Record

SOURCES = Path(__file__).parents[1] / "conformance" / "node"

_TAMPERED = "EINTEGRITY"
"""What npm calls a package that is not the one that was pinned."""


def install(folder: Path) -> Path:
    """The readers with their packages, in a new `folder`. Skipped where npm cannot fetch them (in CI: fails)."""
    npm = program("npm")
    shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("node_modules"))
    quick = ("--prefer-offline", "--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000")
    done = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", *quick],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert _TAMPERED not in done.stderr, done.stderr
    needs("way to fetch packages with npm", there=done.returncode == 0)
    return folder


class Reader:
    """One that reads on by itself."""

    def __init__(self, node: str, folder: Path, kind: Literal["eventsource", "parser"], address: str) -> None:
        self.heard: list[dict[str, Any]] = []
        """What it says of events and of its connection, in order."""
        command = [node, str(folder / "read.mjs"), kind, address]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._thread = Thread(target=self._listen, args=(self._process.stdout,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            self._thread.join(10)

    @property
    def events(self) -> list[Event]:
        return events_of(tuple(self.heard))

    def wait(self, count: int, seconds: float = 20) -> list[Event]:
        """So many events at least."""
        wait_for(lambda: len(self.events) >= count, f"{count} events (the last: {self.heard[-1:]})", seconds)
        return self.events

    def rest(self, seconds: float = 20) -> list[Event]:
        """All events, once it has ended by itself."""
        self._process.wait(seconds)
        self._thread.join(10)
        return self.events

    def _listen(self, output: IO[bytes]) -> None:
        with output:
            for line in output:
                self.heard.append(json.loads(line))


def replay(node: str, folder: Path, body: bytes) -> tuple[list[Event], int]:
    """What a recorded stream tells our parser, and in how many ways it was cut for others, who are told the same."""
    parser = Parser()
    events = list(parser.feed(body))
    assert not parser.rest
    given = {"body": b64encode(body).decode(), "retry": parser.retry, "events": events}
    done = subprocess.run(
        [node, str(folder / "replay.mjs")],
        input=msgspec.json.encode(given),
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[:4000]
    return events, int(done.stdout)


def events_of(heard: Sequence[dict[str, Any]]) -> list[Event]:
    return [Event(said["name"], said["data"], said["id"]) for said in heard if "name" in said]


def told(heard: Sequence[dict[str, Any] | Event]) -> Record:
    """What a reader has after all that it heard, over any number of connections, by the rules of our own."""
    record = Record()
    for said in heard:
        if isinstance(said, Event):
            record.take(said)
        elif "name" in said:
            record.take(*events_of([said]))
        elif said.get("connection") == "lost":
            record.cut()
        else:
            assert said.keys() <= {"connection", "status", "retry"}, said
    return record
