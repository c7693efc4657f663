"""Viewers of one batch over a WebSocket, who come back when they are cut off, and record what they are told."""

import json
import select
from collections.abc import Collection, Iterator
from typing import Any

from tests.support.history import ERRORS, Connection, History, Recording
from tests.support.sse import JSON, Event, Record
from tests.support.viewers import PEEK, Viewer
from tests.support.websockets import CLOSE, PING, PONG, TEXT, LogRecord, RawSocket, frame


class SocketViewer(Viewer):
    """Of the topic `batch:`, whose ids are those of a stream without lines."""

    topic = "batch"

    def _watch(self, connection: Connection) -> None:
        self._record.cut()  # the last connection may have been left, or ended by the server, within a delta
        with RawSocket(next(self._addresses), self._token) as socket:
            if socket.status == 503:  # it leaves, and says so in words of HTTP
                assert socket.headers["retry-after"]
                return
            assert socket.status == 101, f"{socket.status} to a handshake"
            connection.status = 200
            since = {"since": self._record.id} if self._record.id else {}
            socket.say(type="subscribe", topic=f"{self.topic}:{self._batch_id}", **since)
            for event in self._heard(socket):
                if event.name == "error":  # the connection may last, but not the subscription
                    if not self._record.within:
                        connection.events.append(event)
                    return
                connection.events.append(event)
                self._record.take(event)
                if self._chance.random() < self._habits.cut:
                    return
            if self._has_all():
                connection.status = 204  # what a stream would say to somebody with this id

    def _heard(self, socket: RawSocket) -> Iterator[Event]:
        """Of the topic, to the end or until it is to leave. What concerns the connection may come within a delta."""
        while not self._away.is_set() and not self._has_all():
            if not socket._raw and not select.select([socket._socket], [], [], PEEK)[0]:
                continue
            received = socket.receive()
            if received.opcode == CLOSE:
                return
            if received.opcode == PING:
                socket.send(frame(PONG, received.payload))
            else:
                assert received.opcode == TEXT
                said: JSON = json.loads(received.payload)
                if said["type"] == "error":
                    yield Event("error", {"code": said["code"]})
                elif said["topic"] is not None:
                    assert said["topic"] == f"{self.topic}:{self._batch_id}"
                    yield Event(said["type"], said["data"], said["id"])
                else:
                    assert said["type"] in {"ping", "timeout"}

    def _has_all(self) -> bool:
        return self._enough.is_set() and self._record.version >= self._last


class LogViewer(SocketViewer):
    """Of the topic `logs:`. It hears nothing of versions that say nothing, so nobody is to wait for it."""

    topic = "logs"
    make_record = LogRecord

    def has(self, version: int) -> bool:
        super().has(version)
        return True

    def check(self, history: History, *, finished: bool, **allowed: Any) -> None:
        check_log(self.recording, history, finished=finished, **allowed)


def check_log(
    recording: Recording,
    history: History,
    *,
    finished: bool = True,
    resets: Collection[str] = (),
    errors: Collection[str] = ERRORS,
) -> None:
    """At each id the viewer had the lines that were there at that version, but for those it was told are elsewhere.

    `finished`, `resets`, `errors`: as for `check_recording`.
    """
    assert not recording.failure, f"{recording.name}: {recording.failure}"
    record = LogRecord()
    for connection in recording.connections:
        record.cut()
        assert connection.last_id == record.id, f"{recording.name} asked to go on from another id than its last"
        for event in connection.events:
            if event.name == "error":
                assert event.data["code"] in errors, f"{recording.name} was told {event.data}"
                continue
            record.take(event)
            if event.name == "reset":
                assert event.data["reason"] in resets, f"{recording.name} was told to forget: {event.data}"
            elif event.id is not None:
                _check_lines(recording, record, history)
    if finished:
        assert record.version == history.last.version, f"{recording.name} never came to the end"
        assert record.events[-1].name == "complete", f"{recording.name} was not told that there is no more"


def _check_lines(recording: Recording, record: Record, history: History) -> None:
    past, state = history.find(record.epoch, record.version)
    what = f"{recording.name} at version {state.version}"
    held = {(line["jobId"], line["n"]): line for line in past.lines[: state.line_count]}
    assert all(held.get(key) == line for key, line in record.lines.items()), f"{what}: a line that was not there"
    assert len(record.lines) + record.left_out == state.line_count, f"{what}: log lines are missing"
