"""Server-Sent Events as they come over the wire: bytes in, events out, within limits."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

LARGEST = 16 * 2**20
"""Bytes of one event. The longest that a server sends, all batches of an owner, has half of that."""


class SseError(Exception):
    """What came is not a stream that we can read."""


class Event(Struct, frozen=True):
    name: str
    data: Any
    """What its JSON says."""
    id: str | None
    """None: this event carries none, which is not the same as an empty one."""


class Parser:
    """Follows the standard, but for one thing: `id` is the event's own and not the last one seen."""

    def __init__(self) -> None:
        self.retry: int | None = None
        """Milliseconds, once the server has said it."""
        self._rest = b""
        self._after_cr = False
        self._name = "message"
        self._data: list[bytes] = []
        self._size = 0
        self._id: str | None = None

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Whole events. Raises SseError for one that is too long or whose data is no JSON."""
        for line in self._lines(chunk):
            if line:
                self._field(line)
            elif self._data:
                yield self._event()
                self._clear()
            else:
                self._clear()

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")  # the rest of a CR LF
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        text = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = text.split(b"\n")
        if len(self._rest) > LARGEST:
            raise SseError(f"a line is longer than {LARGEST} bytes")
        yield from lines

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._name = value.decode(errors="replace")
        elif name == b"data":
            self._data.append(value)
            self._size += len(value)
            if self._size > LARGEST:
                raise SseError(f"an event is longer than {LARGEST} bytes")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode(errors="replace")
        elif name == b"retry" and value.isdigit() and len(value) < 10:  # noqa: PLR2004 - eleven days are enough
            self.retry = int(value)

    def _event(self) -> Event:
        try:
            return Event(self._name, msgspec.json.decode(b"\n".join(self._data)), self._id)
        except msgspec.MsgspecError as error:
            raise SseError(f"the data of an event `{self._name}` is not JSON: {error}") from None

    def _clear(self) -> None:
        self._name, self._data, self._size, self._id = "message", [], 0, None
