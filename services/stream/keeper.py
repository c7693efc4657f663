"""A keeper: keeps one topic up to date, by what it hears and, where that does not join on, by asking PostgreSQL."""

from collections.abc import Callable
from uuid import UUID

from services.stream.advance import Advance, advance_of
from services.stream.counts import LineCounts
from services.stream.frames import error_event
from services.stream.history import History, Stand
from services.stream.inquiry import Inquiry
from services.stream.pacer import Pacer
from services.stream.topic import Topic
from shared.channels import decode_frame
from shared.errors import NotFound


class Keeper:
    """`tell` is called when there is news for viewers, `vanished` if the batch is deleted. `jitter` (0 to 1) spreads
    the repeated questions of many topics.
    """

    def __init__(
        self,
        topic: Topic,
        history: History,
        *,
        window: float,
        tell: Callable[[], None],
        jitter: Callable[[], float],
        vanished: Callable[[UUID], None],
    ) -> None:
        self.topic = topic
        self.line_counts = LineCounts(topic.id, history)
        self._history = history
        self._vanished = vanished
        self._tell = tell
        self._pacer = Pacer(window, tell)
        self._gone = False
        self._inquiry = Inquiry(self._read, self._take, jitter)
        self._announced = 0, 0
        """A version of which no more than that was heard, and when it was committed."""

    async def open(self) -> None:
        """The first reading. Raises NotFound and Unavailable."""
        await self._inquiry.open()
        if self._gone:
            raise NotFound

    async def refresh(self) -> None:
        """Whatever is committed by now is in the topic afterwards. Raises NotFound and Unavailable."""
        await self._inquiry.refresh()
        if self._gone:
            raise NotFound

    def hear(self, message: bytes) -> None:
        """A frame from Redis: carries the answer along, or is a reason to ask."""
        decoded = decode_frame(message)
        topic = self.topic
        outcomes = topic.audience.metrics.frames
        if decoded is None or not topic.version:
            outcomes["foreign" if decoded is None else "early"] += 1
            self.ask()
            return
        frame, delta = decoded
        if frame.epoch == topic.epoch and frame.to <= topic.version:
            outcomes["dropped"] += 1
            return
        if frame.traceparent:
            topic.audience.causes.hear(frame.traceparent)
        if frame.epoch != topic.epoch or frame.since != topic.version or delta is None:
            ours, joins = frame.epoch == topic.epoch, frame.since == topic.version
            outcomes[("large" if joins else "gap") if ours else "foreign"] += 1
            self._announced = frame.to, frame.at
            self.ask()
            return
        outcomes["applied"] += 1
        topic.committed = frame.at
        topic.apply(advance_of(frame.epoch, frame.since, frame.to, delta))
        self._pacer.touch(urgent=topic.final)

    def compare(self, stand: Stand | None, version: int) -> None:
        """PostgreSQL was seen to stand there, when the topic was at `version`."""
        topic = self.topic
        if stand is None or stand.epoch != topic.epoch or stand.version > topic.version or stand.version < version:
            self.ask()

    def tell_outlook(self) -> None:
        """What is expected of the batch has changed, and nothing else."""
        self.topic.outlook += 1
        if not self._pacer.pending:  # it leaves with what else is new
            self._tell()

    def ask(self) -> None:
        """Ask PostgreSQL what is new."""
        self._inquiry.ask()

    async def close(self) -> None:
        self._pacer.stop()
        await self._inquiry.close()
        self.topic.empty()

    async def _read(self) -> Advance | None:
        return await self._history.since(self.topic.id, self.topic.version, self.topic.epoch)

    def _take(self, advance: Advance | None) -> None:
        topic = self.topic
        if advance is None:
            self._gone = True
            self._inquiry.end()
            for viewer in tuple(topic.viewers):
                viewer.dismiss("deleted", error_event("deleted", "The batch was deleted.", retryable=False))
            self._vanished(topic.id)
            return
        before = topic.version
        if advance.since == 0:
            self.line_counts.forget()
            topic.load(advance, "epoch" if advance.epoch != topic.epoch else "ahead")
        else:
            topic.apply(advance)
        if topic.version > before:
            version, committed = self._announced
            topic.committed = committed if version == topic.version else 0
        if before and (advance.since == 0 or topic.version > before):
            self._pacer.touch(urgent=topic.final)
