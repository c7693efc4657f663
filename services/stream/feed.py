"""A feed: the batches of one owner as they are, for all who watch them, and what became of them since any moment of it.

It numbers what happens in it by itself: its versions mean nothing outside this process, so they are no event ids.
"""

from collections import deque
from collections.abc import Collection, Iterator
from itertools import takewhile
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID
from weakref import WeakValueDictionary

from msgspec import Struct

from services.stream.audience import Audience
from services.stream.buffer import Buffer, Waiting
from services.stream.delivery import Delivery, Encoder, Position, Since
from services.stream.frames import CHUNK, chunked
from shared.event_ids import Filters
from shared.events import BatchDeleted, sse
from shared.events import encode as encode_json

LATEST = 50
"""Batches that a reader is shown at first, finished or not."""
ACTIVE = 1000
"""Unfinished ones that it is shown at first: as many as a list gives at once."""
_LARGEST = 8 * 2**20
"""Bytes of what it is shown at first: each may have 16 KiB of metadata. The oldest are left out."""

_KEPT = 2 * (LATEST + ACTIVE)
"""Batches in memory. Beyond it, those that have not moved for long and would not be shown at first are forgotten."""
_DELETED = 1000
"""Deletions that are remembered besides."""
_CACHED = 16
"""Deliveries to the present version: readers that are slow come from many versions, all others from one."""


class Standing(NamedTuple):
    """A batch at a version; `data` is its JSON."""

    version: int
    final: bool
    data: bytes


class Reading(Struct, frozen=True):
    """What PostgreSQL knew at one moment."""

    epoch: str
    batches: dict[UUID, Standing]
    """The latest, unfinished ones, and those of which was asked."""


class FeedStory(Struct, frozen=True):
    """What there is to tell: `items` are batches, or deletions, as JSON. `whole`: all that there is, newest first."""

    whole: bool
    items: list[bytes]
    final: bool = False


class _Entry(NamedTuple):
    number: int
    """The feed's version that last touched it."""
    standing: Standing | None
    """None: it is deleted."""


class Feed:
    """Empty (version 0) until the first reading. It knows no clock, no network and no database."""

    final = False
    outlook = 0
    """As a topic has it; here what is expected of a batch is news like any other."""

    def __init__(self, owner: str, buffer: Buffer | None = None) -> None:
        self.id = owner
        self.epoch = ""
        self.version = 0
        self.committed = 0
        """As in Delivery, of what happened last."""
        self.audience = Audience()
        self.viewers = self.audience.viewers
        self.buffer = buffer or Buffer()
        self._clear()

    def apply(self, reading: Reading, asked_at: int) -> bool:
        """Whether there was anything new in it. `asked_at`: our version when it was asked for, at the latest."""
        if reading.epoch != self.epoch or self._was_taken_back(reading, asked_at):
            self._load(reading)
            return True
        before = self.version
        for batch_id in self._gone(reading.batches, asked_at):
            self.delete(batch_id)
        for batch_id in sorted(reading.batches, key=_age):
            self._touch(batch_id, reading.batches[batch_id])
        self._trim()  # not before: what is forgotten and then read would be news
        return self.version > before

    def empty(self) -> None:
        """Nobody watches it any more. Connections that have just ended may hold it for a while yet, not its state."""
        self._clear()
        self.version = 0

    def touch(self, batch_id: UUID, standing: Standing) -> bool:
        """A batch was seen at a version; whether that is news."""
        news = self._touch(batch_id, standing)
        self._trim()
        return news

    def delete(self, batch_id: UUID) -> bool:
        """It is gone, and whoever has it from elsewhere wants to know as well; whether that is news."""
        known = self._entries.get(batch_id)
        if known is not None and known.standing is None:
            return False
        self._put(batch_id, None)
        return True

    @property
    def standing(self) -> list[UUID]:
        """The batches that it knows: of these PostgreSQL is asked, besides the latest and unfinished ones."""
        return [batch_id for batch_id, entry in self._entries.items() if entry.standing is not None]

    @property
    def older(self) -> list[UUID]:
        """Those of them that nobody would be shown at first."""
        return list(set(self.standing).difference(self._shown()))

    def differs(self, epoch: str, versions: dict[UUID, int], asked_at: int) -> bool:
        """Whether PostgreSQL stands elsewhere than we do. `versions`: of the latest and unfinished ones, and of those
        that were `older`; `asked_at` as for `apply`.
        """
        return (
            epoch != self.epoch
            or any(self._is_elsewhere(batch_id, version, asked_at) for batch_id, version in versions.items())
            or bool(self._gone(versions, asked_at))
        )

    def news_since(self, version: int) -> int:
        """Of how many batches there is something to tell."""
        return sum(1 for _ in self._since(version))

    def event_id(self, version: int, filters: Filters) -> str:  # noqa: ARG002  # as topics have it
        return ""

    def delivery(
        self, since: Position, filters: Filters, encode: Encoder | None = None, reader: Waiting | None = None
    ) -> Delivery | None:
        """What became of the batches after `since`. None if that is long, and the buffer does not admit `reader`."""
        whole = since.version < max(1, self._forgotten)
        key = Since(0 if whole else since.version, filters, encode or encode_feed)
        found = self._deliveries.get(key) or self._long.get((key, self.version))
        if found is not None and not found.lost:
            return found
        items = self._all() if whole else [_told(batch_id, entry) for batch_id, entry in self._after(since.version)]
        return self._begin(FeedStory(whole, items), key, reader)

    def _begin(self, story: FeedStory, key: Since, reader: Waiting | None) -> Delivery | None:
        delivery = Delivery(story, key, Position(self.version), self.committed)
        if not delivery.has(1):
            if len(self._deliveries) >= _CACHED:
                self._deliveries.pop(next(iter(self._deliveries)))
            self._deliveries[key] = delivery
        elif not self.buffer.admits(reader):
            return None
        else:
            divisible = key.encode is encode_feed and _never_cut(story)
            delivery.hold(self.buffer, 2 * sum(map(len, story.items)), divisible=divisible)
            self._long[key, self.version] = delivery
        return delivery

    def _all(self) -> list[bytes]:
        items: list[bytes] = []
        room = _LARGEST
        for batch_id in self._shown():
            entry = self._entries[batch_id]
            if entry.standing is not None and (room := room - len(entry.standing.data)) >= 0:
                items.append(entry.standing.data)
        return items

    def _shown(self) -> Iterator[UUID]:
        """What a reader is shown at first, newest first."""
        active = 0
        for number, batch_id in enumerate(sorted(self.standing, key=_age, reverse=True)):
            entry = self._entries[batch_id]
            unfinished = entry.standing is not None and not entry.standing.final
            active += unfinished
            if number < LATEST or (unfinished and active <= ACTIVE):
                yield batch_id

    def _since(self, version: int) -> Iterator[tuple[UUID, _Entry]]:
        """Those that something became of after `version`, the last one first."""
        return takewhile(lambda item: item[1].number > version, reversed(self._entries.items()))

    def _after(self, version: int) -> list[tuple[UUID, _Entry]]:
        return list(self._since(version))[::-1]

    def _is_elsewhere(self, batch_id: UUID, version: int, asked_at: int) -> bool:
        known = self._entries.get(batch_id)
        if known is None:
            return True
        ours = 0 if known.standing is None else known.standing.version
        # what we heard while PostgreSQL was looking it need not know; whatever we knew before it does
        return version != ours if known.number <= asked_at else 0 < ours < version

    def _was_taken_back(self, reading: Reading, asked_at: int) -> bool:
        """Whether it knows less than we did."""
        return any(
            (known := self._entries.get(batch_id)) is not None
            and known.number <= asked_at
            and (known.standing is None or known.standing.version > standing.version)
            for batch_id, standing in reading.batches.items()
        )

    def _gone(self, there: Collection[UUID], asked_at: int) -> list[UUID]:
        """Those that we know, and PostgreSQL does not."""
        return [
            batch_id
            for batch_id, entry in self._entries.items()
            if entry.standing is not None and entry.number <= asked_at and batch_id not in there
        ]

    def _load(self, reading: Reading) -> None:
        """Begin again; whoever watches is shown everything anew."""
        self._clear()
        self.epoch = reading.epoch
        self.version += 1
        self._forgotten = self.version
        for batch_id in sorted(reading.batches, key=_age):
            self._entries[batch_id] = _Entry(self.version, reading.batches[batch_id])
        self._trim()

    def _touch(self, batch_id: UUID, standing: Standing) -> bool:
        known = self._entries.get(batch_id)
        if known is not None and (known.standing is None or known.standing.version >= standing.version):
            return False
        self._put(batch_id, standing)
        return True

    def _put(self, batch_id: UUID, standing: Standing | None) -> None:
        self.version += 1
        self._deliveries.clear()
        self._entries.pop(batch_id, None)
        self._entries[batch_id] = _Entry(self.version, standing)  # last touched, last in order
        if standing is None:
            self._deleted.append(batch_id)
            if len(self._deleted) > _DELETED:
                self._forget(self._deleted.popleft())

    def _trim(self) -> None:
        """When there are too many, the older half of those that nobody would be shown at first."""
        if len(self._entries) - len(self._deleted) <= _KEPT:
            return
        shown = set(self._shown())
        others = [batch_id for batch_id in self.standing if batch_id not in shown]
        for batch_id in others[: (len(others) + 1) // 2]:
            self._forget(batch_id)

    def _forget(self, batch_id: UUID) -> None:
        """Who has not heard of what became of it last is shown everything anew, and it is not part of that."""
        self._forgotten = max(self._forgotten, self._entries.pop(batch_id).number)

    def _clear(self) -> None:
        self._entries: dict[UUID, _Entry] = {}
        """In the order in which they were touched."""
        self._deleted: deque[UUID] = deque()
        self._forgotten = 0
        """The latest version that is not remembered whole: who has less is shown everything."""
        self._deliveries: dict[Since, Delivery] = {}
        """Short ones to the present."""
        self._long: WeakValueDictionary[tuple[Since, int], Delivery] = WeakValueDictionary()
        """Those that somebody is in, also to versions that are past."""


_age = attrgetter("int")  # of an id: they rise with time; ten times as fast as comparing them as they are


def encode_feed(story: FeedStory) -> Iterator[bytes]:
    """Server-Sent Events, as chunks of at most CHUNK bytes."""
    if story.whole:
        return chunked([sse("batches", all_of(story))])
    return chunked(sse("batch", item) for item in story.items)


def all_of(story: FeedStory) -> bytes:
    """The data of `batches`."""
    return b'{"items":[%b]}' % b",".join(story.items)


def _told(batch_id: UUID, entry: _Entry) -> bytes:
    return encode_json(BatchDeleted(str(batch_id))) if entry.standing is None else entry.standing.data


def _never_cut(story: FeedStory) -> bool:
    """Whether every event fits into a chunk, so that each chunk ends with an event."""
    return not story.whole and max(map(len, story.items)) < CHUNK // 2
