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


_PER_SECOND = 1000
"""Batches of which a feed tells in a second, at most: an owner may have thousands that run, and a page reads each."""

_decode_seen = msgspec.json.Decoder(_Seen | None).decode


class FeedKeeper:
    """`tell` is called when there is news for viewers. `jitter` as for an Inquiry."""

    def __init__(
        self, feed: Feed, history: History, *, window: float, tell: Callable[[], None], jitter: Callable[[], float]
    ) -> None:
        self.topic = feed
        self._history = history
        self._window = window
        self._tell = tell
        self._told = 0
        self._asked_at = 0
        self._pacer = Pacer(window, self._tell_all)
        self._inquiry = Inquiry(self._read, self._take, jitter)

    async def open(self) -> None:
        """The first reading. Raises Unavailable."""
        await self._inquiry.open()

    async def refresh(self) -> None:
        """Whatever is committed by now is in the feed afterwards. Raises Unavailable."""
        await self._inquiry.refresh()

    def hear(self, message: bytes) -> None:
        """A frame from Redis: says what became of a batch, or is a reason to ask."""
        feed = self.topic
        outcomes = feed.audience.metrics.frames
        frame = decode_owner_frame(message)
        if not feed.version or frame is None or frame.epoch != feed.epoch:
            outcomes["foreign" if feed.version else "early"] += 1
            self.ask()
            return
        try:
            seen = _decode_seen(frame.batch)
        except msgspec.MsgspecError:
            outcomes["foreign"] += 1
            self.ask()
            return
        if seen is not None:
            standing = Standing(seen.version, seen.status in FINAL_BATCH, bytes(frame.batch))
            news = feed.touch(frame.batch_id, standing)
        elif frame.deleted:
            news = feed.delete(frame.batch_id)
        else:
            outcomes["large"] += 1
            self.ask()
            return
        outcomes["applied" if news else "dropped"] += 1
        if news:
            feed.committed = frame.at
            self._pacer.touch()

    def compare(self, epoch: str, versions: dict[UUID, int], asked_at: int) -> None:
        """PostgreSQL was seen to stand there; as for `Feed.differs`."""
        if self.topic.differs(epoch, versions, asked_at):
            self.ask()

    def ask(self) -> None:
        """Ask PostgreSQL what is new."""
        self._inquiry.ask()

    async def close(self) -> None:
        self._pacer.stop()
        await self._inquiry.close()
        self.topic.empty()

    async def _read(self) -> Reading:
        self._asked_at = self.topic.version
        return await self._history.feed(self.topic.id, self.topic.standing)

    def _take(self, reading: Reading) -> None:
        feed = self.topic
        first = not feed.version
        if feed.apply(reading, self._asked_at):
            feed.committed = 0
            if not first:
                self._pacer.touch()

    def _tell_all(self) -> None:
        feed = self.topic
        self._pacer.window = max(self._window, feed.news_since(self._told) / _PER_SECOND)
        self._told = feed.version
        self._tell()
