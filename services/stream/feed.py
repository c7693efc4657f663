"""A feed: the batches of one owner as they are, for all who watch them, and what became of them since any moment of it.

It numbers what happens in it by itself: its versions mean nothing outside this process, so they are no event ids.
"""

from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple
from uuid import UUID

from msgspec import Struct

from services.stream.audience import Audience
from services.stream.buffer import Buffer
from services.stream.delivery import Delivery, Encoder, Position, Since
from services.stream.frames import CHUNK, chunked
from shared.event_ids import Filters
from shared.events import BatchDeleted, sse
from shared.events import encode as encode_json

LATEST = 50
"""Batches that a reader is shown at first, finished or not."""
ACTIVE = 500
"""Unfinished ones that it is shown besides: a page can show no more, and each may have 16 KiB of metadata."""

_KEPT = LATEST + 2 * ACTIVE
"""Batches in memory; finished ones beyond that, which nobody would be shown at first, are forgotten."""
_DELETED = 100
"""Deletions that are remembered. A reader who has not heard of an older one is shown everything anew."""


class Standing(NamedTuple):
    """A batch at a version; `data` is its JSON."""

    version: int
    final: bool
    data: bytes


class Reading(Struct, frozen=True):
    """What PostgreSQL knew at one moment."""

    epoch: str
    batches: dict[UUID, Standing]
    """LATEST, and up to ACTIVE unfinished ones."""


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
    """Empty (version 0) until `load`. It knows no clock, no network and no database."""

    final = False

    def __init__(self, owner: str, buffer: Buffer | None = None) -> None:
        self.id = owner
        self.epoch = ""
        self.version = 0
        self.committed = 0
        """As in Delivery, of what happened last."""
        self.audience = Audience()
        self.viewers = self.audience.viewers
        self.buffer = buffer or Buffer()
        self._forgotten = 0
        """The latest version that is not remembered whole."""
        self._clear()

    def load(self, reading: Reading) -> None:
        """Begin again; whoever watches is shown everything anew."""
        for viewer in self.viewers:
            viewer.begin(Position())
        self._clear()
        self.epoch = reading.epoch
        self.version += 1
        for batch_id in sorted(reading.batches):
            self._entries[batch_id] = _Entry(self.version, reading.batches[batch_id])

    def apply(self, reading: Reading, asked_at: int) -> bool:
        """Whether there was anything new in it. `asked_at`: our version when it was asked for, at the latest."""
        before = self.version
        missing = self._missing(reading)
        for batch_id in self._entries.keys() - reading.batches.keys():
            entry = self._entries[batch_id]
            if entry.standing is None or entry.number > asked_at:  # it may have come up after PostgreSQL looked
                continue
            if batch_id in missing:
                self.delete(batch_id)
            else:
                self._forget(batch_id)
        for batch_id in sorted(reading.batches):
            self.touch(batch_id, reading.batches[batch_id])
        return self.version > before

    def touch(self, batch_id: UUID, standing: Standing) -> bool:
        """A batch was seen at a version; whether that is news."""
        known = self._entries.get(batch_id)
        if known is not None and (known.standing is None or known.standing.version >= standing.version):
            return False
        return self._put(batch_id, standing)

    def delete(self, batch_id: UUID) -> bool:
        """It is gone; whether that is news."""
        known = self._entries.get(batch_id)
        return known is not None and known.standing is not None and self._put(batch_id, None)

    def differs(self, epoch: str, versions: dict[UUID, int]) -> bool:
        """Whether PostgreSQL, that was seen to stand there, knows more or less than we do."""
        if epoch != self.epoch:
            return True
        for batch_id, version in versions.items():
            known = self._entries.get(batch_id)
            if known is None or (known.standing is not None and known.standing.version < version):
                return True
        return any(self._standing(batch_id) for batch_id in self._entries.keys() - versions.keys())

    def event_id(self, version: int, filters: Filters) -> str:  # noqa: ARG002  # as topics have it
        return ""

    def delivery(self, since: Position, filters: Filters, encode: Encoder | None = None) -> Delivery | None:
        """What became of the batches after `since`. None if that is long, and the buffer has no room for it."""
        whole = not since.version or since.version < self._forgotten
        key = Since(0 if whole else since.version, filters, encode or encode_feed)
        found = self._deliveries.get(key)
        if found is not None and not found.lost:
            return found
        items = self._all() if whole else self._after(since.version)
        size = sum(map(len, items))
        if size > CHUNK and self.buffer.full:
            return None
        delivery = Delivery(FeedStory(whole, items), key, Position(self.version), self.committed)
        if size > CHUNK:
            delivery.hold(self.buffer, size, divisible=False)
        self._deliveries[key] = delivery
        return delivery

    def _all(self) -> list[bytes]:
        standing = {batch_id: one for batch_id in self._entries if (one := self._standing(batch_id))}
        return [standing[batch_id].data for batch_id in sorted(standing, reverse=True)]

    def _after(self, version: int) -> list[bytes]:
        fresh = list(takewhile(lambda item: item[1].number > version, reversed(self._entries.items())))
        return [
            encode_json(BatchDeleted(str(batch_id))) if entry.standing is None else entry.standing.data
            for batch_id, entry in reversed(fresh)
        ]

    def _standing(self, batch_id: UUID) -> Standing | None:
        return self._entries[batch_id].standing

    def _missing(self, reading: Reading) -> set[UUID]:
        """Those that would be in the reading if they were still there."""
        newest = sorted(reading.batches)[-LATEST:]
        active = sorted(batch_id for batch_id, one in reading.batches.items() if not one.final)[-ACTIVE:]
        oldest_shown = newest[0] if len(newest) == LATEST else UUID(int=0)
        oldest_active = active[0] if len(active) == ACTIVE else UUID(int=0)
        return {
            batch_id
            for batch_id in self._entries.keys() - reading.batches.keys()
            if (one := self._standing(batch_id))
            and (batch_id > oldest_shown or (not one.final and batch_id > oldest_active))
        }

    def _put(self, batch_id: UUID, standing: Standing | None) -> bool:
        self.version += 1
        self._deliveries.clear()
        self._entries.pop(batch_id, None)
        self._entries[batch_id] = _Entry(self.version, standing)  # last touched, last in order
        if standing is None:
            self._deleted.append(batch_id)
            if len(self._deleted) > _DELETED:
                self._forget(self._deleted.pop(0))
        elif len(self._entries) > _KEPT:
            self._forget_one()
        return True

    def _forget_one(self) -> None:
        for batch_id, (_, standing) in self._entries.items():
            if standing is not None and standing.final:
                self._forget(batch_id)
                return

    def _forget(self, batch_id: UUID) -> None:
        """Who has not heard of what became of it last is shown everything anew, and it is not part of that."""
        self._forgotten = max(self._forgotten, self._entries.pop(batch_id).number)

    def _clear(self) -> None:
        self._entries: dict[UUID, _Entry] = {}
        """In the order in which they were touched."""
        self._deleted: list[UUID] = []
        self._deliveries: dict[Since, Delivery] = {}


def encode_feed(story: FeedStory) -> Iterator[bytes]:
    """Server-Sent Events, as chunks of at most CHUNK bytes."""
    if story.whole:
        return chunked([sse("batches", all_of(story))])
    return chunked(sse("batch", item) for item in story.items)


def all_of(story: FeedStory) -> bytes:
    """The data of `batches`."""
    return b'{"items":[%b]}' % b",".join(story.items)
