"""A thousand who come at once ask PostgreSQL no more than a few of them would."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from services.stream import counts as counts_module
from services.stream import history as history_module
from services.stream.counts import LineCounts
from services.stream.delivery import Position
from services.stream.history import History
from services.stream.hub import Hub
from shared.database import make_async_engine
from shared.errors import NotFound
from shared.event_ids import EventId, Filters, batch_check
from shared.settings import Settings
from tests.support.batches import OWNER
from tests.support.writer import Writer

MANY = 200


@pytest.fixture
async def reading(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = make_async_engine(settings.database_url, pool_size=4, application="test")
    yield engine
    await engine.dispose()


@pytest.fixture
def statements(reading: AsyncEngine) -> list[str]:
    """Those that are made from now on."""
    made: list[str] = []
    sa.event.listen(reading.sync_engine, "before_cursor_execute", lambda *given: made.append(given[2]))
    return made


@pytest.fixture
async def hub(settings: Settings, reading: AsyncEngine) -> AsyncIterator[Hub]:
    hub = Hub(settings, History(reading))
    hub.start()
    async with asyncio.timeout(10):
        while not hub.topics.source.connected:  # noqa: ASYNC110  # it tells nobody, and makes every topic look once more
            await asyncio.sleep(0.01)
    yield hub
    await hub.stop()


async def test_those_who_open_a_topic_together_share_the_questions(
    writer: Writer, settings: Settings, hub: Hub, statements: list[str]
) -> None:
    first = Writer(writer.engine, settings, 3)
    hub.leave(await hub.join(first.batch_id, OWNER, Filters(), ""))
    first.close()
    alone = len(statements)
    statements.clear()

    viewers = await asyncio.gather(*(hub.join(writer.batch_id, OWNER, Filters(), "") for _ in range(MANY)))

    # those whom the census kept may come when it is open, and look once more together
    assert len(statements) <= 2 * alone
    for viewer in viewers:
        hub.leave(viewer)


async def test_whoever_asks_for_what_is_somebody_elses_opens_nothing(
    writer: Writer, hub: Hub, statements: list[str]
) -> None:
    asked = (hub.join(writer.batch_id, "somebody else", Filters(), "") for _ in range(MANY))
    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert {type(answer) for answer in answers} == {NotFound}
    assert 1 <= len(statements) <= 2
    assert not hub.topics.keepers


async def test_those_who_return_from_long_ago_share_the_counting(
    writer: Writer, hub: Hub, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "LOGS_MAX", 2)
    writer.start(0)
    for percent in range(1, 41):
        writer.progress(0, percent, lines=percent % 3)
    epoch = writer.state()["epoch"]
    counted = {version: sum(percent % 3 for percent in range(1, version - 1)) for version in range(2, 43)}

    def last_id(version: int) -> str:
        return str(EventId(epoch, batch_check(writer.batch_id), version, Filters()))

    first = await hub.join(writer.batch_id, OWNER, Filters(), "")
    statements.clear()
    old = [2 + number % 20 for number in range(MANY)]
    viewers = await asyncio.gather(*(hub.join(writer.batch_id, OWNER, Filters(), last_id(v)) for v in old))

    assert [viewer.position for viewer in viewers] == [Position(version, counted[version]) for version in old]
    # one under way, and one for those whom the census kept
    assert 1 <= sum("width_bucket" in statement for statement in statements) <= 2
    statements.clear()
    again = await asyncio.gather(*(hub.join(writer.batch_id, OWNER, Filters(), last_id(v)) for v in old))
    assert [viewer.position for viewer in again] == [viewer.position for viewer in viewers]
    assert not any("width_bucket" in statement for statement in statements)
    for viewer in (first, *viewers, *again):
        hub.leave(viewer)


async def test_counts_are_not_remembered_for_ever(
    writer: Writer, reading: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts_module, "_REMEMBERED", 3)
    counts = LineCounts(writer.batch_id, History(reading))

    for version in range(1, 10):
        assert await counts.at(version) == 0

    assert len(counts._known) == 3
