"""A strict reader of our event streams: a socket, a parser that forgives nothing, and a record of what was seen."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Self
from urllib.parse import urlencode, urlsplit
from uuid import UUID

from msgspec import Struct

from shared.event_ids import parse_event_id
from tests.support.tls import connect

JSON = dict[str, Any]

ESTIMATES = {"waiting", "etaSeconds", "etaLow", "etaHigh"}
"""Of a batch: guesses of the moment, which are no part of a version."""

_ORDER = {"log": 0, "progress": 1, "complete": 2}
_OTHERS = {"ping", "timeout", "error"}
_PATIENCE = 45.0


class Event(Struct):
    name: str
    data: JSON
    id: str | None = None


def certain(batch: JSON) -> JSON:
    """A batch as it is at its version."""
    return {name: value for name, value in batch.items() if name not in ESTIMATES}


class Parser:
    """Of exactly the form that we send: `retry`, or `event`, perhaps `id`, one line of `data`; LF; no comments."""

    def __init__(self) -> None:
        self.retry: list[int] = []
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[Event]:
        self._buffer += data
        while b"\n\n" in self._buffer:
            block, _, self._buffer = self._buffer.partition(b"\n\n")
            lines = [line.partition(": ") for line in block.decode().split("\n")]
            names = [name for name, _, _ in lines]
            values = {name: value for name, _, value in lines}
            if names == ["retry"]:
                self.retry.append(int(values["retry"]))
                continue
            assert names in (["event", "data"], ["event", "id", "data"]), block[:200]
            event_id = values.get("id")
            assert event_id is None or (len(event_id) <= 32 and event_id.isascii() and event_id.isprintable())
            content = json.loads(values["data"])
            assert isinstance(content, dict)
            yield Event(values["event"], content, event_id)

    @property
    def rest(self) -> bytes:
        """The beginning of an event that has not ended."""
        return self._buffer


class Record:
    """What a reader has after what it was told, and that it was told so by the rules of docs/protocol.md."""

    def __init__(self, last_id: str = "") -> None:
        self.batch: JSON = {}
        self.jobs: dict[str, JSON] = {}
        self.lines: dict[tuple[str, int], JSON] = {}
        self.left_out = 0
        self.id = last_id
        """The id after which everything is consistent."""
        self.events: list[Event] = []
        self.refreshes: list[Event] = []
        """Those among them that only told estimates anew."""
        self.within: list[str] = []
        """The events of a delta that has not ended."""
        self._unsettled: tuple[set[tuple[str, int]], int] = (set(), 0)
        """The lines that came, and were left out, in it."""

    @property
    def version(self) -> int:
        event_id = parse_event_id(self.id)
        return event_id.version if event_id else 0

    @property
    def epoch(self) -> str:
        """Empty while there is nothing yet."""
        event_id = parse_event_id(self.id)
        return event_id.epoch if event_id and event_id.version else ""

    def cut(self) -> None:
        """The connection is lost: a delta that has not ended will come again."""
        for line in self._unsettled[0]:
            del self.lines[line]
        self.left_out -= self._unsettled[1]
        self._settle()

    def take(self, event: Event) -> None:
        self.events.append(event)
        if event.name in _OTHERS:
            assert event.id is None
            assert not self.within, f"{event.name} within a delta"
            return
        if event.name == "reset":
            self._reset(event)
            return
        assert not self.within or _ORDER[self.within[-1]] <= _ORDER[event.name], self.within
        if self._is_refresh(event):
            self._refresh(event)
            return
        self.within.append(event.name)
        if event.name == "log":
            assert event.id is None
            self._add_lines(event.data)
        else:
            self._add_jobs(event.data)
        if event.id is not None:
            self._arrive(event.id)
        else:
            assert event.name != "complete"

    def news(self, events: list[Event]) -> list[Event]:
        """Of some that it took, those that did more than to tell estimates anew."""
        return [event for event in events if not any(event is refresh for refresh in self.refreshes)]

    def _reset(self, event: Event) -> None:
        assert not self.within
        assert event.data["reason"] in {"epoch", "ahead", "invalid_id", "filters"}
        assert event.id is not None
        self.batch, self.jobs, self.lines, self.left_out = {}, {}, {}, 0
        self.id = event.id
        assert self.version == 0

    def _is_refresh(self, event: Event) -> bool:
        alone = event.name == "progress" and event.id is None and not event.data["jobs"]
        return alone and self.version > 0 and not self.within

    def _refresh(self, event: Event) -> None:
        batch = {name: value for name, value in event.data.items() if name != "jobs"}
        assert batch["version"] == self.version, "news without an id"
        assert not self.batch or certain(batch) == certain(self.batch), "news without an id"
        self.batch = batch
        self.refreshes.append(event)

    def _add_lines(self, data: JSON) -> None:
        assert data.keys() == {"batchId", "lines", "truncated"}
        for line in data["lines"]:
            key = (line["jobId"], line["n"])
            assert key not in self.lines, f"line {key} twice"
            self.lines[key] = line
            self._unsettled[0].add(key)
        if data["truncated"]:
            assert data["truncated"].keys() == {"count", "logsUrl"}
            count = data["truncated"]["count"]
            self.left_out += count
            self._unsettled = (self._unsettled[0], self._unsettled[1] + count)

    def _add_jobs(self, data: JSON) -> None:
        self.batch = {name: value for name, value in data.items() if name != "jobs"}
        self.jobs |= {job["id"]: job for job in data["jobs"]}

    def _arrive(self, event_id: str) -> None:
        version, epoch = self.version, self.epoch
        self.id = event_id
        assert self.version > version, "ids strictly increase"
        assert epoch in {"", self.epoch}, "only a reset leads to another epoch"
        assert self.version == self.batch["version"], "the id and the batch are of different versions"
        self._settle()

    def _settle(self) -> None:
        self.within.clear()
        self._unsettled = (set(), 0)


class Stream:
    """One connection to a stream. Nothing is read before somebody asks for it."""

    def __init__(
        self,
        address: str,
        batch_id: UUID | str,
        token: str | None,
        *,
        method: str = "GET",
        record: Record | None = None,
        headers: dict[str, str] | None = None,
        receive_buffer: int | None = None,
        path: str = "",
        **query: Any,
    ) -> None:
        """`record` goes on where an earlier connection ended; its id goes along as `Last-Event-ID`. `path`: not that of
        the batch.
        """
        self.parser = Parser()
        self.record = record or Record()
        self.record.cut()
        self.ended = False
        self._events: list[Event] = []
        parts = urlsplit(address)
        self._socket = connect(address, receive_buffer, _PATIENCE)
        sent = {"Host": parts.netloc, "Accept": "text/event-stream"} | (headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if self.record.id:
            sent["Last-Event-ID"] = self.record.id
        target = (path or f"/api/batches/{batch_id}/stream") + (f"?{urlencode(query)}" if query else "")
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
        self._raw = b""
        try:
            self._socket.sendall("\r\n".join(lines).encode())
            head = self._until(b"\r\n\r\n").decode().split("\r\n")
        except OSError:
            self._socket.close()
            raise
        self.status = int(head[0].split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def next(self, seconds: float = _PATIENCE) -> Event:
        """The next event; fails when none comes in time, or none at all."""
        deadline = time.monotonic() + seconds
        while not self._events:
            assert not self.ended, "the stream has ended"
            left = deadline - time.monotonic()
            assert left > 0, f"no event within {seconds} s"
            self._socket.settimeout(left)
            try:
                self._events += self.parser.feed(self._chunk())
            except TimeoutError:
                continue
        event = self._events.pop(0)
        self.record.take(event)
        return event

    def chunk(self, seconds: float = _PATIENCE) -> list[Event]:
        """The events that the next chunk ends; not in the record yet. Raises TimeoutError, and OSError when cut off."""
        self._socket.settimeout(seconds)
        return list(self.parser.feed(self._chunk()))

    def until(self, wanted: Callable[[Event], Any] | str, seconds: float = _PATIENCE) -> list[Event]:
        """Events up to and with the first that is wanted, by name or otherwise."""
        deadline = time.monotonic() + seconds
        seen: list[Event] = []
        while True:
            seen.append(self.next(max(0.01, deadline - time.monotonic())))
            if seen[-1].name == wanted if isinstance(wanted, str) else wanted(seen[-1]):
                return seen

    def delta(self, seconds: float = _PATIENCE) -> list[Event]:
        """Events up to and with the next id, but for those that only tell estimates anew."""
        return self.record.news(self.until(lambda event: event.id is not None, seconds))

    def to_version(self, version: int, seconds: float = _PATIENCE) -> None:
        while self.record.version < version:
            self.delta(seconds)

    def rest(self) -> list[Event]:
        """All events to the end of the stream, which must come, and not within an event; as `delta`."""
        self._socket.settimeout(_PATIENCE)
        while not self.ended:
            self._events += self.parser.feed(self._chunk())
        assert not self.parser.rest
        seen, self._events = self._events, []
        for event in seen:
            self.record.take(event)
        return self.record.news(seen)

    def body(self) -> bytes:
        """Of a reply that is no stream."""
        length = int(self.headers.get("content-length", 0))
        while len(self._raw) < length:
            self._receive()
        return self._raw

    def _chunk(self) -> bytes:
        """One chunk of HTTP/1.1, or what has come where the end of the connection is the end; empty at the end."""
        if self.headers.get("transfer-encoding") != "chunked":
            data, self._raw = self._raw or self._socket.recv(256 * 1024), b""
            self.ended = not data
            return data
        while b"\r\n" not in self._raw:
            self._receive()
        size_text, _, rest = self._raw.partition(b"\r\n")
        size = int(size_text, 16)
        while len(rest) < size + 2:
            self._receive()
            rest = self._raw.partition(b"\r\n")[2]
        self._raw = rest[size + 2 :]
        assert rest[size : size + 2] == b"\r\n"
        self.ended = size == 0
        return rest[:size]

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._raw:
            self._receive()
        found, _, self._raw = self._raw.partition(mark)
        return found

    def _receive(self) -> None:
        data = self._socket.recv(256 * 1024)
        if not data:
            self.ended = True
            raise ConnectionError("the connection was cut")
        self._raw += data
