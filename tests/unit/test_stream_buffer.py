"""Slow readers of large batches: what they hold is bounded, they take turns, and nobody misses anything."""

import asyncio
import json
import tracemalloc

from services.stream.advance import Advance, job_part
from services.stream.buffer import STUCK, Buffer
from services.stream.delivery import Encoder
from services.stream.frames import encode_story
from services.stream.messages import encode_batch
from services.stream.subscription import Subscription
from services.stream.topic import Topic
from services.stream.viewer import Viewer
from shared.event_ids import Filters
from tests.support.sse import Parser, Record
from tests.unit.test_stream_topic import BATCH, batch, job

JOBS = 1000
NAME = "x" * 300
LONG = 2 * JOBS * 500
"""About the bytes that one delivery of all jobs counts for."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Reader:
    """Reads when it is told to."""

    def __init__(self, topic: Topic, encode: Encoder = encode_story) -> None:
        self.viewer = Viewer(topic, Filters(), encode)
        self.viewer.carrier = self
        self.called = asyncio.Event()
        self.record = Record()
        self._parser = Parser()
        topic.audience.enter(self.viewer)

    def wake(self) -> None:
        self.called.set()

    def read(self, chunks: int = 1_000) -> int:
        """How many chunks there were, up to so many."""
        for number in range(chunks):
            chunk = self.viewer.pull()
            if chunk is None:
                return number
            self.take(chunk)
        return chunks

    def take(self, chunk: bytes) -> None:
        for event in self._parser.feed(chunk):
            self.record.take(event)


class Busy:
    """A topic of which every job changes with every version."""

    def __init__(self, buffer: Buffer, first: str = NAME) -> None:
        """`first`: the name of the first job, at first."""
        self.topic = Topic(BATCH, "/logs", buffer)
        self.version = 1
        parts = [job_part(1, job(n, 1, name=NAME if n else first)) for n in range(JOBS)]
        self.topic.load(Advance("0badcafe", 0, batch(1), parts, [], 0))

    def change(self) -> None:
        self.version += 1
        parts = [job_part(self.version, job(n, self.version % 100, name=NAME)) for n in range(JOBS)]
        self.topic.apply(Advance("0badcafe", self.version - 1, batch(self.version), parts, [], 0))

    def right(self, reader: Reader) -> bool:
        jobs = reader.record.jobs
        return (
            reader.record.version == self.version
            and len(jobs) == JOBS
            and all(one["progress"] == self.version % 100 for one in jobs.values())
        )


async def test_what_is_sent_to_the_end_holds_nothing() -> None:
    buffer = Buffer()
    busy = Busy(buffer)
    readers = [Reader(busy.topic) for _ in range(3)]

    for reader in readers:
        reader.read(2)
    assert 0.8 * LONG < buffer.held < 1.2 * LONG
    for reader in readers:
        assert reader.read() > 3
        assert busy.right(reader)

    assert buffer.held == 0


async def test_whoever_finds_no_room_waits_for_a_turn_and_misses_nothing() -> None:
    buffer = Buffer(LONG)
    busy = Busy(buffer)
    first, second, third = (Reader(busy.topic) for _ in range(3))
    for reader in (second, third):
        reader.read()
    busy.change()
    first.read(1)
    busy.change()
    assert buffer.full
    held = buffer.held

    last = Reader(busy.topic)
    last.viewer.begin(first.viewer.position)
    assert last.read() == 0
    assert last.viewer.has_news
    busy.change()
    assert last.read() == 0
    assert buffer.held == held

    for reader in (first, second, third):
        reader.read()
    async with asyncio.timeout(10):
        await last.called.wait()
    last.read()
    assert last.record.version == busy.version


async def test_a_short_delta_never_waits() -> None:
    buffer = Buffer(1)
    busy = Busy(buffer)
    quick, slow = Reader(busy.topic), Reader(busy.topic)
    quick.read()
    slow.read(1)
    assert buffer.full

    busy.version += 1
    one = [job_part(busy.version, job(0, 50, name=NAME))]
    busy.topic.apply(Advance("0badcafe", busy.version - 1, batch(busy.version), one, [], 0))

    assert quick.read() == 1
    assert quick.record.version == busy.version


async def test_who_reads_nothing_while_others_wait_begins_again_from_where_it_was() -> None:
    clock = Clock()
    buffer = Buffer(LONG // 2, clock)
    busy = Busy(buffer)
    stuck, waiting = Reader(busy.topic), Reader(busy.topic)
    stuck.read()
    busy.change()
    stuck.read(1)
    busy.change()
    assert waiting.read() == 0

    clock.now = STUCK + 1
    async with asyncio.timeout(10):
        await waiting.called.wait()
    waiting.read()
    assert busy.right(waiting)
    assert not stuck.viewer.between
    stuck.read()
    assert busy.right(stuck)
    assert buffer.held == 0


async def test_what_ends_within_an_event_ends_its_connection() -> None:
    clock = Clock()
    buffer = Buffer(1, clock)
    busy, other = Busy(buffer, first="x" * 100_000), Busy(buffer)
    stuck, waiting = Reader(busy.topic), Reader(other.topic)
    stuck.read(1)
    assert waiting.read() == 0
    assert not stuck.viewer.given_up

    clock.now = STUCK + 1
    async with asyncio.timeout(10):
        await waiting.called.wait()

    assert waiting.read() > 3
    assert buffer.held == 0
    assert stuck.viewer.given_up
    assert stuck.read() == 0
    assert stuck.viewer.over


async def test_a_topic_of_a_websocket_is_left_and_taken_up_again_between_two_messages() -> None:
    clock = Clock()
    buffer = Buffer(LONG // 2, clock)
    busy = Busy(buffer)
    viewer = Reader(busy.topic, encode_batch).viewer
    stuck = Subscription(f"batch:{BATCH}", lambda _: None)
    stuck.viewer = viewer
    first = stuck.next()
    assert first is not None
    assert buffer.full
    busy.change()
    waiting = Reader(busy.topic)
    assert waiting.read() == 0

    clock.now = STUCK + 1
    async with asyncio.timeout(10):
        await waiting.called.wait()
    assert waiting.read() > 3
    said = []
    while (text := stuck.next()) is not None:
        said.append(json.loads(text))

    told = {one["id"]: one["progress"] for each in said for one in each["data"]["jobs"]}
    assert len(told) == JOBS
    assert set(told.values()) == {busy.version % 100}
    assert [each["id"] is not None for each in said] == [False] * (len(said) - 1) + [True]
    assert viewer.position.version == busy.version
    assert buffer.held == 0


async def test_who_stands_still_in_the_last_message_of_a_topic_holds_nothing() -> None:
    buffer = Buffer()
    busy = Busy(buffer)
    viewer = Reader(busy.topic, encode_batch).viewer
    stuck = Subscription(f"batch:{BATCH}", lambda _: None)
    stuck.viewer = viewer
    texts = 0
    while buffer.held or not texts:
        assert stuck.next() is not None
        texts += 1
    assert texts > 3
    assert stuck.next() is None


async def test_nobody_overtakes_those_who_wait() -> None:
    clock = Clock()
    buffer = Buffer(1, clock)
    topics = [Busy(buffer) for _ in range(4)]
    holding, first, second, newcomer = (Reader(busy.topic) for busy in topics)
    holding.read(1)
    for reader in (first, second):
        assert reader.read() == 0
    holding.read()
    assert buffer.held == 0

    assert newcomer.read() == 0, "there is room, but not for somebody who has just come"
    async with asyncio.timeout(10):
        for reader in (first, second, newcomer):
            await reader.called.wait()
    assert first.read(1) == 1
    assert second.read() == newcomer.read() == 0, "they were called, but there is room for one at a time"
    second.called.clear()
    newcomer.called.clear()
    first.read()
    assert newcomer.read() == 0, "it is called after the second"
    async with asyncio.timeout(10):
        await second.called.wait()
    assert second.read() > 3
    async with asyncio.timeout(10):
        await newcomer.called.wait()
    assert newcomer.read() > 3
    for busy, reader in zip(topics, (holding, first, second, newcomer), strict=True):
        assert busy.right(reader)


async def test_who_is_called_and_cannot_come_keeps_nobody_out_for_long() -> None:
    clock = Clock()
    buffer = Buffer(1, clock)
    holding, absent, newcomer, later = (Reader(Busy(buffer).topic) for _ in range(4))
    holding.read(1)
    assert absent.read() == 0
    holding.read()
    async with asyncio.timeout(10):
        await absent.called.wait()
    assert newcomer.read() == 0
    async with asyncio.timeout(10):
        await newcomer.called.wait()
    assert newcomer.read() > 3

    clock.now += 5
    async with asyncio.timeout(10):
        while not buffer.admits(None):  # noqa: ASYNC110  # as its timer says
            await asyncio.sleep(0.01)
    assert later.read() > 3
    assert absent.read() > 3, "it has lost its turn, and nothing else"


async def test_a_reader_that_leaves_waits_no_longer() -> None:
    buffer = Buffer(1)
    busy = Busy(buffer)
    slow = Reader(busy.topic)
    slow.read(1)
    busy.change()
    gone = Reader(busy.topic)
    gone.viewer.reset("epoch")
    gone.read()
    assert buffer.waits(gone.viewer)

    gone.viewer.let_go()

    assert not buffer.waits(gone.viewer)


async def test_a_hundred_readers_each_stuck_elsewhere_cost_what_the_buffer_allows() -> None:
    most = 5 * LONG
    buffer = Buffer(most)
    busy = Busy(buffer)
    readers = [Reader(busy.topic) for _ in range(100)]
    for reader in readers:
        reader.read()
    begun: list[tuple[Reader, bytes]] = []
    tracemalloc.start()
    try:
        for reader in readers:
            busy.change()
            if chunk := reader.viewer.pull():
                begun.append((reader, chunk))
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    for reader, chunk in begun:
        reader.take(chunk)

    assert sum(not reader.viewer.between for reader in readers) < 10
    assert grown < most + 2 * LONG
    async with asyncio.timeout(30):
        while not all(busy.right(reader) for reader in readers):
            for reader in readers:
                reader.read()
            await asyncio.sleep(0.01)
    assert buffer.held == 0
