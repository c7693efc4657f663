"""A delivery: one delta or snapshot on its way, shared by all who need just this one."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from msgspec import Struct

from shared.event_ids import Filters

if TYPE_CHECKING:
    from services.stream.buffer import Buffer

Encoder = Callable[[Any], Iterator[bytes]]
"""The form in which a story goes out; chunks of at most frames.CHUNK bytes, each made when it is asked for."""


class Tellable(Protocol):
    """What there is to tell: of a topic or a feed."""

    @property
    def final(self) -> bool:
        """Nothing follows it."""


class Position(Struct, frozen=True):
    """How far somebody has read: a version (0: nothing yet), and how many log lines the batch had then.

    `outlook`: which of the topic's outlooks on that version they know; 0: none of this process's.
    """

    version: int = 0
    line_count: int = 0
    outlook: int = 0


START = Position()
"""Of everybody who has read nothing yet."""


class Since(NamedTuple):
    """What a delivery is shared by: from which version, for whom, in which form."""

    version: int
    filters: Filters
    encode: Encoder


class Delivery:
    """Its chunks are made when somebody first comes to them: until then it holds no more than references to jobs and
    lines as they were when it began.
    """

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_chunks",
        "_rest",
        "asked",
        "committed",
        "divisible",
        "final",
        "lost",
        "position",
        "since",
        "size",
    )

    def __init__(self, story: Tellable, since: Since, position: Position, committed: int = 0) -> None:
        self.since = since
        self.position = position
        """Where its reader is afterwards."""
        self.final = story.final
        """The batch is finished by then."""
        self.committed = committed
        """When the newest of it was, in milliseconds since 1970 by the clock of whoever did it; 0: nobody has said."""
        self.divisible = False
        """No Server-Sent Event of it is cut over chunks: it may be left after any of them."""
        self.lost = False
        """Its room was needed: whoever is in it begins again, from where it was before, if it can."""
        self.asked = 0.0
        """When somebody last got on in it, by the clock of the buffer."""
        self.size = 0
        """Bytes that count against the buffer."""
        self._buffer: Buffer | None = None
        self._chunks: list[bytes] = []
        self._rest = since.encode(story)

    def __del__(self) -> None:
        if self._buffer is not None:
            self._buffer.release(self.size)

    def __iter__(self) -> Iterator[bytes]:
        number = 0
        while self.has(number):
            yield self.chunk(number)
            number += 1

    @property
    def only(self) -> bytes | None:
        """Its only chunk, if there is just one."""
        return self._chunks[0] if self.has(0) and not self.has(1) else None

    def has(self, number: int) -> bool:
        """Whether there is such a chunk."""
        while len(self._chunks) <= number:
            chunk = next(self._rest, None)
            if chunk is None:
                return False
            self._chunks.append(chunk)
        return True

    def chunk(self, number: int) -> bytes:
        """From 0. Raises IndexError if there is none."""
        if self._buffer is not None:
            self.asked = self._buffer.clock()
        self.has(number)
        return self._chunks[number]

    def hold(self, buffer: "Buffer", size: int, *, divisible: bool) -> None:
        """It is a long one."""
        self._buffer = buffer
        self.size = size
        self.divisible = divisible
        self.asked = buffer.clock()
        buffer.hold(self)

    def lose(self) -> None:
        """Make room."""
        self.lost = True
        self._chunks = []
        self._rest = iter(())
        if self._buffer is not None:
            self._buffer.release(self.size)
            self._buffer = None
