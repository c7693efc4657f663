"""Whoever writes and whoever reads, and whatever gets lost in between: at every event id a reader has what was true."""

import asyncio
import copy
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as how
from hypothesis import strategies as st
from msgspec.structs import replace

from services.stream import history as history_module
from services.stream import tail as tail_module
from services.stream.feed_keeper import FeedKeeper
from services.stream.history import History
from services.stream.hub import Hub
from services.stream.keeper import Keeper
from services.stream.viewer import Viewer
from shared.database import make_async_engine
from shared.event_ids import Filters
from shared.events import encode
from shared.jobs import JobStatus
from shared.settings import Settings
from tests.support.batches import OWNER
from tests.support.sse import Parser, Record, certain
from tests.support.writer import Writer

JOBS = 3
LINES_KEPT = 4
"""Instead of a thousand, so that lines are left out."""

FILTERS = [Filters(), Filters(jobs="changed", logs=2), Filters(jobs="none", logs=0)]

number = st.integers(0, 30)
job = st.integers(0, JOBS - 1)
few = st.integers(0, 4)
STEPS = st.lists(
    st.sampled_from(
        [
            *(st.tuples(st.just("step"), job, st.integers(0, 99), few),) * 5,
            st.tuples(st.just("end"), job, st.sampled_from([JobStatus.COMPLETED, JobStatus.FAILED]), few),
            st.tuples(st.just("give_back"), job),
            *(st.tuples(st.just("hear_newest"), st.integers(0, 1)),) * 2,
            st.tuples(st.just("hear"), st.integers(0, 1), number),  # any frame, in any order, again, or never
            *(st.tuples(st.just("race"), st.integers(0, 1), st.integers(0, 8)),) * 2,
            *(st.tuples(st.just("ask")), st.tuples(st.just("tick"), few), st.tuples(st.just("wait"))),
            *(st.tuples(st.just("join"), st.sampled_from([0, 0, 0, 1, 2]), number),) * 4,
            *(st.tuples(st.just("pull"), number),) * 4,
            st.tuples(st.just("cut"), number),
            st.sampled_from([("cancel",), ("new_epoch",), ("wait",), ("wait",)]),
        ]
    ).flatmap(lambda step: step),
    min_size=40,
    max_size=100,
)


class Reader:
    def __init__(self, viewer: Viewer, record: Record, hub: Hub) -> None:
        self.hub = hub
        self.viewer = viewer
        self.record = record
        self.parser = Parser()


class Scene:
    """One batch, its writers, two replicas that hear what they are told, and readers."""

    def __init__(self, writer: Writer, *hubs: Hub) -> None:
        self.writer = writer
        self.hubs = hubs
        self.readers: list[Reader] = []
        self.truth: dict[tuple[str, int], dict[str, Any]] = {}
        """By epoch and version."""
        self.version = 0
        self.past: list[tuple[Filters, Record]] = []
        """What readers had at the ids that they saw."""
        self.note_truth()

    def note_truth(self) -> None:
        state = self.writer.state()
        self.version = state["batch"]["version"]
        self.truth[state["epoch"], self.version] = state

    async def write(self, change: Any, *arguments: Any) -> None:
        def work() -> None:
            change(*arguments)
            self.note_truth()

        await asyncio.to_thread(work)  # and meanwhile questions are asked and answered

    async def step(self, position: int, percent: int, lines: int) -> None:
        """A job begins to run or gets on."""
        await self.write(lambda: self.writer.progress(position, percent, lines=lines) or self.writer.start(position))

    async def end(self, position: int, status: JobStatus, lines: int) -> None:
        await self.write(lambda: self.writer.finish(position, status, lines=lines))

    async def give_back(self, position: int) -> None:
        await self.write(self.writer.give_back, position)

    async def cancel(self) -> None:
        if self.writer.state()["batch"]["finishedAt"] is None:
            await self.write(self.writer.cancel)

    async def new_epoch(self) -> None:
        with self.writer.engine.begin() as connection:
            connection.execute(sa.text("UPDATE installation SET secret = secret || 'x'"))
        self.note_truth()

    async def hear(self, hub: int, index: int) -> None:
        keeper = self.hubs[hub].topics.keepers.get(self.writer.batch_id)
        if keeper is not None and (frames := self.writer.frames):
            keeper.hear(encode(frames[index % len(frames)]))

    async def hear_newest(self, hub: int) -> None:
        await self.hear(hub, -1)

    async def ask(self) -> None:
        for keeper in self.keepers():
            keeper.ask()

    def keepers(self) -> list[Keeper | FeedKeeper]:
        return [keeper for hub in self.hubs for keeper in hub.topics.keepers.values()]

    async def tick(self, times: int) -> None:
        """A question is on its way, perhaps."""
        for _ in range(times):
            await asyncio.sleep(0)

    async def race(self, hub: int, times: int) -> None:
        """A frame overtakes the answer to a question."""
        for keeper in self.hubs[hub].topics.keepers.values():
            keeper.ask()
        await self.tick(times)
        await self.hear_newest(hub)

    async def wait(self) -> None:
        await asyncio.sleep(0.002)

    async def join(self, choice: int, index: int) -> None:
        """A new reader, or one that had something and was cut off then."""
        filters, record, hub = FILTERS[choice], Record(), self.hubs[index % 2]
        if self.past and index % 5:
            newest = len(self.past) - 1
            filters, record = copy.deepcopy(self.past[newest if index % 5 < 3 else index % len(self.past)])
        viewer = await hub.join(self.writer.batch_id, OWNER, filters, record.id)
        if viewer.has_everything:
            hub.leave(viewer)
            self.check(filters, record)
            assert record.version == self.version
        else:
            self.readers.append(Reader(viewer, record, hub))

    async def pull(self, index: int) -> None:
        if self.readers:
            reader = self.readers[index % len(self.readers)]
            if chunk := reader.viewer.pull():
                for event in reader.parser.feed(chunk):
                    reader.record.take(event)
                    assert event.name != "reset" or event.data["reason"] == "epoch"
                    if event.id is not None:
                        self.check(reader.viewer.filters, reader.record)
                        self.past.append((reader.viewer.filters, copy.deepcopy(reader.record)))

    async def cut(self, index: int) -> None:
        if self.readers:
            reader = self.readers.pop(index % len(self.readers))
            reader.hub.leave(reader.viewer)

    async def finish(self) -> None:
        """Everybody catches up, and a last reader sees everything at once."""
        await self.join(0, 0)
        for keeper in self.keepers():
            await keeper.refresh()
        for index, reader in enumerate(self.readers):
            for _ in range(10):
                await self.pull(index)
            assert reader.viewer.pull() is None
            assert reader.record.version == self.version
            assert reader.viewer.over or reader.record.epoch == self.writer.state()["epoch"]

    def check(self, filters: Filters, record: Record) -> None:
        if not record.version:
            return
        truth = self.truth[record.epoch, record.version]
        assert certain(record.batch) == certain(truth["batch"])
        touched = {
            key: job
            for key, job in truth["jobs"].items()
            if filters.jobs == "all" or job["status"] != "QUEUED" or job["attempt"]
        }
        assert record.jobs == ({} if filters.jobs == "none" else touched)
        if not filters.logs:
            assert not record.lines
            assert not record.left_out
            return
        assert record.lines.items() <= truth["lines"].items()
        assert len(record.lines) + record.left_out == len(truth["lines"])


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "LOGS_MAX", LINES_KEPT)
    monkeypatch.setattr(tail_module, "LOGS_MAX", LINES_KEPT)


@pytest.mark.usefixtures("few_lines")
def test_readers_rebuild_what_was_true(settings: Settings, engine: sa.Engine, runner: asyncio.Runner) -> None:
    async_engine = make_async_engine(settings.database_url, pool_size=4, application="test")

    async def play(steps: list[tuple[Any, ...]]) -> None:
        writer = Writer(engine, settings, JOBS)
        writer.publish = False
        hubs = [Hub(replace(settings, window=0), History(async_engine), jitter=lambda: 0.5) for _ in range(2)]
        try:
            scene = Scene(writer, *hubs)
            for name, *arguments in steps:
                await getattr(scene, name)(*arguments)
            await scene.finish()
        finally:
            for hub in hubs:
                await hub.stop()
            writer.close()

    @given(STEPS)
    @examples_of(40)
    def any_interleaving(steps: list[tuple[Any, ...]]) -> None:
        runner.run(play(steps))

    any_interleaving()
    runner.run(async_engine.dispose())


def examples_of(count: int) -> Any:
    """To look into a failure add Phase.shrink, which takes minutes."""
    return how(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
