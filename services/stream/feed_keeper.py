"""What keeps a feed up to date, as a keeper does a topic: by what it hears, and by asking PostgreSQL."""

from collections.abc import Callable
from uuid import UUID

import msgspec
from msgspec import Struct

from services.stream.feed import Feed, Reading, Standing
from services.stream.history import History
from services.stream.inquiry import Inquiry
from services.stream.pacer import Pacer
from shared.channels import decode_owner_frame
from shared.jobs import FINAL_BATCH, BatchStatus


class _Seen(Struct, rename="camel"):
    """Of a batch, what the feed itself must know."""

    version: int
    status: BatchStatus


_decode_seen = msgspec.json.Decoder(_Seen | None).decode


class FeedKeeper:
    """`tell` is called when there is news for viewers. `jitter` as for an Inquiry."""

    def __init__(
        self, feed: Feed, history: History, *, window: float, tell: Callable[[], None], jitter: Callable[[], float]
    ) -> None:
        self.topic = feed
        self._history = history
        self._pacer = Pacer(window, tell)
        self._asked_at = 0
        self._inquiry = Inquiry(self._read, self._take, jitter)

    async def open(self) -> None:
        """The first reading. Raises Unavailable."""
        await self._inquiry.open()

    def hear(self, message: bytes) -> None:
        """A frame from Redis: has the batch in it, or is a reason to ask."""
        feed = self.topic
        frame = decode_owner_frame(message)
        outcomes = feed.audience.metrics.frames
        if not feed.version or frame is None or frame.epoch != feed.epoch:
            outcomes["foreign" if feed.version else "early"] += 1
            self.ask()
            return
        seen = _decode_seen(frame.batch)
        if seen is None:
            outcomes["large"] += 1
            self.ask()
            return
        news = feed.touch(frame.batch_id, Standing(seen.version, seen.status in FINAL_BATCH, bytes(frame.batch)))
        outcomes["applied" if news else "dropped"] += 1
        if news:
            feed.committed = frame.at
            self._pacer.touch()

    def compare(self, epoch: str, versions: dict[UUID, int]) -> None:
        """PostgreSQL was seen to stand there."""
        if self.topic.differs(epoch, versions):
            self.ask()

    def ask(self) -> None:
        """Ask PostgreSQL what is new."""
        self._inquiry.ask()

    async def close(self) -> None:
        self._pacer.stop()
        await self._inquiry.close()

    async def _read(self) -> Reading:
        self._asked_at = self.topic.version
        return await self._history.feed(self.topic.id)

    def _take(self, reading: Reading) -> None:
        feed = self.topic
        first = not feed.version
        if reading.epoch != feed.epoch:
            feed.load(reading)
        elif not feed.apply(reading, self._asked_at):
            return
        feed.committed = 0
        if not first:
            self._pacer.touch()
