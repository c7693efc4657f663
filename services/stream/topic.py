"""A topic: the latest state of one watched batch, and every delta of it encoded once, however many people watch."""

from collections.abc import Callable
from itertools import takewhile
from typing import TYPE_CHECKING
from uuid import UUID
from weakref import WeakSet

from msgspec import Struct

from services.stream.advance import Advance, Part
from services.stream.frames import Story, encode_story
from services.stream.tail import Tail
from shared.event_ids import EventId, Filters, batch_check
from shared.events import Batch, ResetReason
from shared.events import encode as encode_json
from shared.jobs import FINAL_BATCH

if TYPE_CHECKING:
    from services.stream.viewer import Viewer

SNAPSHOTS = 2
"""For each choice of filters: the most snapshots that slow readers keep alive. A further reader gets the newer of
them, and then what came since."""

_CACHED = 16
"""Deltas to the present version: readers that reconnect come from many versions, those that stay from one."""


Encoder = Callable[[Story], tuple[bytes, ...]]
"""The form in which a story goes out; chunks of at most frames.CHUNK bytes."""


class Position(Struct, frozen=True):
    """How far somebody has read: a version (0: nothing yet), and how many log lines the batch had then."""

    version: int = 0
    line_count: int = 0


class Delivery(Struct, frozen=True, eq=False, weakref=True):
    """One delta or snapshot as it goes out, shared by all who need just this one."""

    filters: Filters
    encode: Encoder
    position: Position
    """Where its reader is afterwards."""
    chunks: tuple[bytes, ...]
    final: bool
    """The batch is finished by then."""


class Topic:
    """Empty (version 0) until `load`. It knows no clock, no network and no database."""

    batch: Batch

    def __init__(self, batch_id: UUID, logs_url: str) -> None:
        self.id = batch_id
        self.epoch = ""
        self.version = 0
        self.viewers: set[Viewer] = set()
        self._logs_url = logs_url
        self._clear()

    @property
    def final(self) -> bool:
        return self.version > 0 and self.batch.status in FINAL_BATCH

    def load(self, advance: Advance, reason: ResetReason = "epoch") -> None:
        """Begin again from everything; whoever watches is told to forget what they have, and why."""
        for viewer in self.viewers:
            viewer.reset(reason)
        self._clear()
        self.epoch = advance.epoch
        self.version = 0
        self.apply(advance)

    def apply(self, advance: Advance) -> None:
        """Take over what is new to us in what changed since our version or an earlier one, of this epoch."""
        if advance.batch.version <= self.version:
            return
        for job in advance.jobs:
            if job.version > self.version:
                # last touched, last in order: what changed since a version is at the end
                self._jobs.pop(job.key, None)
                self._jobs[job.key] = job
        self._tail.extend([line for line in advance.lines if line.version > self.version], advance.line_count)
        self.batch = advance.batch
        self.version = advance.batch.version
        self._encoded = encode_json(advance.batch)
        self._deliveries.clear()

    def notify(self) -> None:
        """Tell everybody that there may be something to pull."""
        for viewer in tuple(self.viewers):
            viewer.on_change()

    def event_id(self, version: int, filters: Filters) -> str:
        return str(EventId(self.epoch, batch_check(self.id), version, filters))

    def line_count_at(self, version: int) -> int | None:
        """None if only PostgreSQL knows."""
        return self._tail.count_at(version)

    def delivery(self, since: Position, filters: Filters, encode: Encoder = encode_story) -> Delivery:
        """What leads from `since` to the present (a snapshot: perhaps to a moment ago)."""
        key = (since.version, filters, encode)
        found = self._deliveries.get(key)
        if found is None and not since.version:
            held = [one for one in self._snapshots if one.filters == filters and one.encode is encode]
            if len(held) >= SNAPSHOTS:
                return max(held, key=lambda snapshot: snapshot.position.version)
        if found is None:
            found = self._encode(since, filters, encode)
            if len(self._deliveries) >= _CACHED:
                self._deliveries.pop(next(iter(self._deliveries)))
            self._deliveries[key] = found
            if not since.version:
                self._snapshots.add(found)
        return found

    def _encode(self, since: Position, filters: Filters, encode: Encoder) -> Delivery:
        whole = not since.version
        fresh = self._tail.count - since.line_count if filters.logs else 0
        lines = self._tail.last(min(fresh, filters.logs) if whole else fresh)
        chunks = encode(
            Story(
                batch_id=str(self.id),
                batch=self._encoded,
                final=self.final,
                whole=whole,
                jobs=self._jobs_since(since.version, filters),
                lines=lines,
                left_out=fresh - len(lines),
                logs_url=self._logs_url,
                event_id=self.event_id(self.version, filters),
            )
        )
        return Delivery(filters, encode, Position(self.version, self._tail.count), chunks, self.final)

    def _jobs_since(self, version: int, filters: Filters) -> list[bytes]:
        if filters.jobs == "none":
            return []
        if filters.jobs == "changed":
            version = max(version, 1)  # a job that nobody has touched is at the version of its creation
        changed = [job.data for job in takewhile(lambda job: job.version > version, reversed(self._jobs.values()))]
        changed.reverse()
        return changed

    def _clear(self) -> None:
        self._jobs: dict[str, Part] = {}
        self._tail = Tail()
        self._encoded = b""
        self._deliveries: dict[tuple[int, Filters, Encoder], Delivery] = {}
        self._snapshots: WeakSet[Delivery] = WeakSet()
