"""A keeper: keeps one topic up to date, by what it hears and, where that does not join on, by asking PostgreSQL."""

import asyncio
from collections.abc import Callable
from uuid import UUID

import structlog

from services.stream.advance import Advance, advance_of
from services.stream.frames import error_event
from services.stream.history import History, Stand
from services.stream.pacer import Pacer
from services.stream.topic import Topic
from shared.channels import decode_frame
from shared.errors import NotFound, Unavailable

_AGAIN_FIRST, _AGAIN_MOST = 0.1, 2.0
"""Seconds before PostgreSQL is asked again after it did not answer; doubled each time."""

PATIENCE = 5.0
"""Seconds that a new reader waits for PostgreSQL before it is told to come back."""

log = structlog.get_logger(__name__)


class Keeper:
    """`jitter` (0 to 1) spreads the repeated questions of many topics. `vanished` is called if the batch is deleted."""

    def __init__(
        self,
        topic: Topic,
        history: History,
        *,
        window: float,
        jitter: Callable[[], float],
        vanished: Callable[[UUID], None],
    ) -> None:
        self.topic = topic
        self._history = history
        self._jitter = jitter
        self._vanished = vanished
        self._pacer = Pacer(window, topic.notify)
        self._gone = False
        self._question: asyncio.Task[None] | None = None
        self._again = False
        self._waiting: list[asyncio.Future[None]] = []

    async def open(self) -> None:
        """The first reading. Raises NotFound and Unavailable."""
        advance = await self._history.since(self.topic.id, 0, "")
        if advance is None:
            raise NotFound
        self.topic.load(advance)
        if self._again:  # something was heard meanwhile, perhaps of later than what was read
            self.ask()

    async def refresh(self) -> None:
        """Whatever is committed by now is in the topic afterwards. Raises NotFound and Unavailable."""
        answered = asyncio.get_running_loop().create_future()
        self._waiting.append(answered)
        self.ask()
        try:
            async with asyncio.timeout(PATIENCE):
                await answered
        except TimeoutError:
            raise Unavailable from None
        if self._gone:
            raise NotFound

    def hear(self, message: bytes) -> None:
        """A frame from Redis: carries the answer along, or is a reason to ask."""
        decoded = decode_frame(message)
        topic = self.topic
        if decoded is None or not topic.version:
            self.ask()
            return
        frame, delta = decoded
        if frame.epoch == topic.epoch and frame.to <= topic.version:
            return
        if frame.epoch != topic.epoch or frame.since != topic.version or delta is None:
            self.ask()
            return
        topic.apply(advance_of(frame.epoch, frame.since, frame.to, delta))
        self._pacer.touch(urgent=topic.final)

    def compare(self, stand: Stand | None, version: int) -> None:
        """PostgreSQL was seen to stand there, when the topic was at `version`."""
        topic = self.topic
        if stand is None or stand.epoch != topic.epoch or stand.version > topic.version or stand.version < version:
            self.ask()

    def ask(self) -> None:
        """Ask PostgreSQL what is new: one question at a time, and another one if it came up during the first."""
        if self._gone:
            return
        self._again = True
        if self.topic.version and self._question is None:
            self._question = asyncio.get_running_loop().create_task(self._ask())

    async def close(self) -> None:
        self._pacer.stop()
        if self._question is not None:
            self._question.cancel()
            await asyncio.wait([self._question])

    async def _ask(self) -> None:
        try:
            wait = _AGAIN_FIRST
            while self._again and not self._gone:
                self._again = False
                waiting, self._waiting = self._waiting, []
                try:
                    advance = await self._history.since(self.topic.id, self.topic.version, self.topic.epoch)
                except Exception as error:  # noqa: BLE001  # a topic that no longer asks would be stuck for ever
                    log.warning("cannot ask what is new", batch=str(self.topic.id), error=repr(error))
                    self._again = True
                    self._waiting += waiting
                    await asyncio.sleep(wait * (0.5 + self._jitter()))
                    wait = min(2 * wait, _AGAIN_MOST)
                else:
                    wait = _AGAIN_FIRST
                    self._take(advance)
                    for answered in waiting:
                        if not answered.done():
                            answered.set_result(None)
        finally:
            self._question = None

    def _take(self, advance: Advance | None) -> None:
        topic = self.topic
        if advance is None:
            self._gone = True
            for viewer in tuple(topic.viewers):
                viewer.dismiss("deleted", error_event("deleted", "The batch was deleted.", retryable=False))
            self._vanished(topic.id)
            return
        before = topic.version
        if advance.since == 0:
            topic.load(advance, "epoch" if advance.epoch != topic.epoch else "ahead")
        else:
            topic.apply(advance)
        if advance.since == 0 or topic.version > before:
            self._pacer.touch(urgent=topic.final)
