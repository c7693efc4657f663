"""A topic: the latest state of one watched batch, and every delta of it encoded once, however many people watch."""

from itertools import takewhile
from uuid import UUID
from weakref import WeakValueDictionary

from services.stream.advance import Advance, Part
from services.stream.audience import Audience
from services.stream.buffer import Buffer, Waiting
from services.stream.delivery import Delivery, Encoder, Position, Since
from services.stream.frames import Story, encode_story, never_cut, weight
from services.stream.tail import Tail
from shared.event_ids import EventId, Filters, batch_check
from shared.events import Batch, ResetReason
from shared.events import encode as encode_json
from shared.jobs import FINAL_BATCH
from shared.outlook import Outlook
from shared.outlooks import Found

SNAPSHOTS = 2
"""For each choice of filters: the most snapshots that slow readers keep alive. A further reader gets the newer of
them, and then what came since."""

_CACHED = 16
"""Deltas to the present version: readers that reconnect come from many versions, those that stay from one."""


class Topic:
    """Empty (version 0) until `load`. It knows no clock, no network and no database."""

    batch: Batch
    """With what is expected of it now."""
    _change: Batch
    """As whoever changed it last told it."""

    def __init__(self, batch_id: UUID, logs_url: str, buffer: Buffer | None = None) -> None:
        self.id = batch_id
        self.epoch = ""
        self.version = 0
        self.committed = 0
        """As in Delivery, of the present version."""
        self.outlook = 0
        """Rises whenever viewers are to be told what is expected of the batch, without a new version."""
        self.audience = Audience()
        self.viewers = self.audience.viewers
        self.buffer = buffer or Buffer()
        self._logs_url = logs_url
        self._expected = Outlook()
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
        self._expected = advance.outlook
        # who comes back to the present version knows an outlook of another time
        self.outlook = int(advance.outlook.says_something)
        self.apply(advance)

    def empty(self) -> None:
        """Nobody watches it any more. Connections that have just ended may hold it for a while yet, not its state."""
        self._clear()
        self.version = 0

    def apply(self, advance: Advance) -> None:
        """Take over what is new to us in what changed since our version or an earlier one, of this epoch."""
        if advance.batch.version <= self.version:
            return
        for job in advance.jobs:
            if job.version > self.version:
                # last touched, last in order: what changed since a version is at the end
                self._jobs.pop(job.number, None)
                self._jobs[job.number] = job
        self._tail.extend([line for line in advance.lines if line.version > self.version], advance.line_count)
        self._change = advance.batch
        self.version = advance.batch.version
        self._show(self._expected.beside(advance.batch))

    def expect(self, found: Found) -> None:
        """What is expected of the batch. Viewers are told it with what follows, or by itself if `outlook` rises."""
        if self.final or not self.version:
            return
        self._expected = found.outlook
        self._show(found.shown(self._change))

    def event_id(self, version: int, filters: Filters) -> str:
        return str(EventId(self.epoch, batch_check(self.id), version, filters))

    def line_count_at(self, version: int) -> int | None:
        """None if only PostgreSQL knows."""
        return self._tail.count_at(version)

    def delivery(
        self, since: Position, filters: Filters, encode: Encoder = encode_story, reader: Waiting | None = None
    ) -> Delivery | None:
        """What leads from `since` to the present (a snapshot: perhaps to a moment ago).

        None if that is long, and the buffer does not admit `reader`.
        """
        key = Since(since.version, filters, encode)
        found = self._deliveries.get(key) or self._long.get((key, self.version))
        if found is None and not since.version:
            held = [one for one in self._long.values() if one.since == key]
            if len(held) >= SNAPSHOTS:
                found = max(held, key=lambda snapshot: snapshot.position.version)
        if found is not None and not found.lost:
            return found
        return self._begin(since, filters, encode, reader)

    def _begin(self, since: Position, filters: Filters, encode: Encoder, reader: Waiting | None) -> Delivery | None:
        story = self._story(since, filters)
        position = Position(self.version, self._tail.count, self.outlook)
        key = Since(since.version, filters, encode)
        delivery = Delivery(story, key, position, self.committed if since.version < self.version else 0)
        if not delivery.has(1):
            if len(self._deliveries) >= _CACHED:
                self._deliveries.pop(next(iter(self._deliveries)))
            self._deliveries[key] = delivery
        elif not self.buffer.admits(reader):
            return None
        else:
            delivery.hold(self.buffer, weight(story), divisible=encode is encode_story and never_cut(story))
            self._long[key, self.version] = delivery
        return delivery

    def _story(self, since: Position, filters: Filters) -> Story:
        whole = not since.version
        fresh = self._tail.count - since.line_count if filters.logs else 0
        lines = self._tail.last(min(fresh, filters.logs) if whole else fresh)
        return Story(
            batch_id=str(self.id),
            batch=self._encoded,
            final=self.final,
            whole=whole,
            jobs=self._jobs_since(since.version, filters),
            lines=lines,
            left_out=fresh - len(lines),
            logs_url=self._logs_url,
            event_id=self.event_id(self.version, filters) if since.version < self.version else None,
        )

    def _jobs_since(self, version: int, filters: Filters) -> list[bytes]:
        if filters.jobs == "none":
            return []
        if filters.jobs == "changed":
            version = max(version, 1)  # a job that nobody has touched is at the version of its creation
        if not version:
            return [job.data for job in self._jobs.values()]
        changed = [job.data for job in takewhile(lambda job: job.version > version, reversed(self._jobs.values()))]
        changed.reverse()
        return changed

    def _show(self, batch: Batch) -> None:
        self.batch = batch
        self._encoded = encode_json(batch)
        self._deliveries.clear()

    def _clear(self) -> None:
        self._jobs: dict[int, Part] = {}
        """By position, in the order of versions."""
        self._tail = Tail()
        self._encoded = b""
        self._deliveries: dict[Since, Delivery] = {}
        """Short ones to the present."""
        self._long: WeakValueDictionary[tuple[Since, int], Delivery] = WeakValueDictionary()
        """Those that somebody is in, also to versions that are past."""
