"""Viewers of one batch over HTTP, each in a thread, who come back as an EventSource does and record what they saw."""

import time
import traceback
from collections.abc import Sequence
from itertools import cycle
from random import Random
from threading import Event as Flag
from threading import Thread
from typing import Any
from uuid import UUID

import httpx
from msgspec import Struct, structs

from shared.event_ids import Filters, parse_event_id
from tests.support.history import Connection, History, Recording, check_recording
from tests.support.sse import JSON, Event, Record, Stream
from tests.support.tls import client_context

HURRY = 0.1
"""Of the time after which an EventSource is asked to come back: ours come earlier."""

PEEK = 0.2
"""Seconds after which a viewer that hears nothing looks whether it is to end."""


class Habits(Struct, frozen=True):
    """What a viewer is like, besides its filters."""

    cut: float = 0
    """How likely it is to leave after an event, also in the middle of a delta."""
    pause: float = 0
    """How likely it is to read nothing for a while, with little room for what comes meanwhile."""
    room: int = 0
    """Bytes that the kernel keeps for it while it does not read; 0: as many as it likes."""
    replicas: Sequence[int] = ()
    """The addresses that it goes to, by number; none: all in turn."""


class Viewer:
    """`name` also decides what it does by chance."""

    make_record = Record
    """What it keeps what it is told in."""

    def __init__(
        self, addresses: Sequence[str], batch_id: UUID, token: str, name: str, filters: Filters, habits: Habits
    ) -> None:
        self.recording = Recording(name, filters)
        self.slow = habits.pause > 0
        self._batch_id = batch_id
        self._token = token
        self._habits = habits
        self._chance = Random(name)  # noqa: S311  # nothing depends on its being a surprise
        self._addresses = cycle([addresses[number] for number in habits.replicas] or addresses)
        self._record = self.make_record()
        self._back_after = 1.0
        self._enough = Flag()
        self._last = 0
        self._away = Flag()
        self._thread = Thread(target=self._run, name=name)
        self._thread.start()

    def has(self, version: int) -> bool:
        """Whether it has seen that version, or a later one."""
        assert not self.recording.failure, f"{self.recording.name}: {self.recording.failure}"
        return self.version >= version

    @property
    def version(self) -> int:
        """That it has seen."""
        return self._record.version

    def where(self) -> str:
        """For those who wait for it."""
        connections = self.recording.connections
        last = connections[-1]
        heard = last.events[-1].name if last.events else "nothing"
        return (
            f"who {self.recording.name}, at version {self.version}, connection {len(connections)}"
            f" with status {last.status}, {len(last.events)} events, the last {heard}"
        )

    def leave(self) -> None:
        """Wherever it is."""
        self._away.set()

    def stay_to_the_end(self, version: int) -> None:
        """Until it is told that there is no more. `version` is the last."""
        self._last = version
        self._enough.set()

    def join(self, until: float) -> bool:
        self._thread.join(max(0.0, until - time.monotonic()))
        return not self._thread.is_alive()

    def check(self, history: History, *, finished: bool, **allowed: Any) -> None:
        """Once it has left. As for `check_recording`."""
        check_recording(self.recording, history, finished=finished, **allowed)

    def _run(self) -> None:
        try:
            while not self._away.is_set():
                connection = Connection(self._record.id)
                self.recording.connections.append(connection)
                self._back_after = 1.0
                try:
                    self._watch(connection)
                except (OSError, httpx.TransportError):
                    self._record.cut()
                if connection.status == 204 and self._enough.is_set():
                    return
                self._away.wait(HURRY * self._back_after * (0.5 + self._chance.random()))
        except Exception as error:  # noqa: BLE001  # it is the test that is to fail
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.recording.failure = f"{type(error).__name__}: {error} ({where.line})"

    def _watch(self, connection: Connection) -> None:
        """One connection, to its end. Raises OSError when it is cut off."""
        filters = self.recording.filters
        buffer = self._habits.room or (4096 if self._habits.pause else None)
        with Stream(
            next(self._addresses),
            self._batch_id,
            self._token,
            record=self._record,
            receive_buffer=buffer,
            jobs=filters.jobs,
            logs=filters.logs,
        ) as stream:
            connection.status = stream.status
            assert stream.status in {200, 204}, f"{stream.status} ends an EventSource"
            while stream.status == 200 and not (stream.ended or self._away.is_set()):
                if self._chance.random() < self._habits.pause and not self._enough.is_set():
                    self._away.wait(2 * self._chance.random())
                try:
                    events = stream.chunk(PEEK)
                except TimeoutError:
                    continue
                self._back_after = max([1.0, *(milliseconds / 1000 for milliseconds in stream.parser.retry)])
                for event in events:
                    connection.events.append(event)
                    self._record.take(event)
                    if self._chance.random() < self._habits.cut:
                        return


class Poller(Viewer):
    """Asks for changes instead, time and again; what it is told counts as the events of one delta."""

    def _watch(self, connection: Connection) -> None:
        wait = round(1.5 * self._chance.random(), 2)
        patience = wait / 2 if self._chance.random() < self._habits.cut else 20
        filters = self.recording.filters
        self._back_after = 0.5
        reply = httpx.get(
            f"{next(self._addresses)}/api/batches/{self._batch_id}/changes",
            params={"since": self._record.id or "0", "wait": wait, "jobs": filters.jobs, "logs": filters.logs},
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=patience,
            trust_env=False,
            verify=client_context(),
        )
        if reply.status_code == 503:  # it is no EventSource, and told when to come back
            assert reply.headers["retry-after"], "when?"
            return
        connection.status = reply.status_code
        assert reply.status_code == 200, reply.text
        events = _delta(reply.json(), self._record.id)
        if not events and reply.json()["done"]:
            connection.status = 204
        for event in events:
            connection.events.append(event)
            self._record.take(event)


def _delta(changes: JSON, since: str) -> list[Event]:
    """What a stream would have told."""
    assert changes["reset"] == (changes["reason"] is not None)
    if changes["id"] == since:
        assert not changes["reset"]
        assert not changes["jobs"], "jobs, and no new version"
        assert not changes["lines"], "lines, and no new version"
        return []
    events = []
    if changes["reset"]:
        nothing_yet = parse_event_id(changes["id"])
        assert nothing_yet is not None
        events.append(Event("reset", {"reason": changes["reason"]}, str(structs.replace(nothing_yet, version=0))))
    if changes["lines"] or changes["truncated"]:
        lines = {"batchId": changes["batch"]["batchId"], "lines": changes["lines"], "truncated": changes["truncated"]}
        events.append(Event("log", lines))
    name = "complete" if changes["done"] else "progress"
    events.append(Event(name, changes["batch"] | {"jobs": changes["jobs"]}, changes["id"]))
    return events
