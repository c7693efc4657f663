"""How many viewers an owner may have, in all stream processes together, with real Redis servers and processes."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest
import redis
import sqlalchemy as sa
from msgspec.structs import replace

from infra.embedded.valkey import Valkey
from services.stream import census as census_module
from services.stream.app import create_app
from services.stream.census import Census, Place
from shared.auth import issue_token
from shared.channels import viewers_key
from shared.errors import TooManyRequests
from shared.settings import Settings
from tests.support.batches import OWNER, wait_for
from tests.support.sse import Stream
from tests.support.streams import stream_process
from tests.support.web import assert_problem, served
from tests.support.writer import Writer

ODD_OWNERS = ["anna", "a b", "}", "}{", "{x}", "été:*?[a]", "headway:conn:{x}", "日本" * 100, "x" * 255]


def counted(client: "redis.Redis", namespace: str, owner: str) -> int:
    """What Redis has for an owner, whoever told it."""
    fields: Any = client.hgetall(viewers_key(namespace, owner))
    return sum(int(value.partition(b":")[0]) for value in fields.values())


@pytest.fixture
def counts(settings: Settings) -> Iterator[Callable[[str], int]]:
    with redis.Redis.from_url(settings.redis_url) as client:
        yield lambda owner: counted(client, settings.namespace, owner)


@asynccontextmanager
async def running(settings: Settings, processes: int = 1) -> AsyncIterator[list[Census]]:
    """As many as there would be processes."""
    censuses = [Census(settings) for _ in range(processes)]
    for census in censuses:
        census.start()
    try:
        yield censuses
    finally:
        for census in censuses:
            await census.stop()


async def enter(census: Census, owner: str = OWNER) -> Place | None:
    try:
        return await census.enter(owner)
    except TooManyRequests:
        return None


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


async def decided(census: Census) -> Place | None:
    """A place that counts; None if there is none to be had."""
    place = await enter(census)
    await until(lambda: place is None or place.counted or place.refused, "an answer")
    return place if place is not None and place.counted else None


def settled(places: list[Place | None]) -> list[Place]:
    """Those that are in for good."""
    return [place for place in places if place is not None and place.counted]


def undecided(places: list[Place | None]) -> list[Place]:
    return [place for place in places if place is not None and not place.counted and not place.refused]


async def test_joins_at_once_in_several_processes_never_exceed_the_limit(settings: Settings) -> None:
    async with running(replace(settings, owner_viewers=30), 3) as censuses:
        places = await asyncio.gather(*(enter(censuses[number % 3]) for number in range(150)))
        await until(lambda: not undecided(places), "everybody to be told")
        assert len(settled(places)) == 30


async def test_a_place_that_is_given_back_is_somebody_elses(settings: Settings) -> None:
    async with running(replace(settings, owner_viewers=2), 2) as (one, two):
        first, _ = await decided(one), await decided(one)
        assert first is not None
        assert await decided(two) is None
        one.leave(first)
        one.leave(first)
        deadline = time.monotonic() + 10
        while await decided(two) is None:
            assert time.monotonic() < deadline, "the place was not free for anybody"
        assert [await decided(two), await decided(one)] == [None, None], "one place was given back"


async def test_owners_do_not_count_for_each_other(settings: Settings, counts: Callable[[str], int]) -> None:
    async with running(replace(settings, owner_viewers=1)) as (census,):
        places = [await enter(census, owner) for owner in ODD_OWNERS]
        await until(lambda: len(settled(places)) == len(ODD_OWNERS), "everybody to be counted")
        assert [counts(owner) for owner in ODD_OWNERS] == [1] * len(ODD_OWNERS)
        assert [await enter(census, owner) for owner in ODD_OWNERS] == [None] * len(ODD_OWNERS)
    assert [counts(owner) for owner in ODD_OWNERS] == [0] * len(ODD_OWNERS), "a process that leaves says so"


async def test_who_comes_again_needs_no_question(settings: Settings, counts: Callable[[str], int]) -> None:
    """A page that is loaded again: the place that was left is still counted as ours."""
    async with running(replace(settings, lease=600)) as (census,):
        place = await census.enter(OWNER)
        await until(lambda: place.counted, "the first to be counted")
        for _ in range(100):
            census.leave(place)
            place = await census.enter(OWNER)
            assert place.counted
        assert counts(OWNER) == 1


async def test_what_redis_forgets_is_told_again(settings: Settings, counts: Callable[[str], int]) -> None:
    async with running(replace(settings, owner_viewers=3, lease=1), 2) as (one, two):
        places = [await census.enter(OWNER) for census in (one, one, two)]
        await until(lambda: len(settled([*places])) == 3, "all to be counted")
        with redis.Redis.from_url(settings.redis_url) as client:
            client.delete(viewers_key(settings.namespace, OWNER))
        await until(lambda: counts(OWNER) == 3, "the count to be told again")
        assert await decided(two) is None, "the fourth"


async def test_the_count_of_a_process_that_died_expires(settings: Settings, counts: Callable[[str], int]) -> None:
    settings = replace(settings, owner_viewers=4, lease=1)
    dead = Census(settings)
    dead.start()
    places = [await dead.enter(OWNER) for _ in range(4)]
    await until(lambda: len(settled([*places])) == 4, "all to be counted")
    assert dead._task is not None
    dead._task.cancel()  # it tells no more, and says no goodbye
    async with running(settings) as (census,):
        assert await decided(census) is None, "the dead still count"
        newer: list[Place | None] = []

        async def all_in() -> bool:
            newer.append(await enter(census))
            return len(settled(newer)) >= 4

        deadline = time.monotonic() + 10
        while not await all_in():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert counts(OWNER) == 4
    await dead._client.aclose()


async def test_without_redis_nobody_waits_and_each_process_keeps_to_the_limit(
    settings: Settings, valkey: Valkey
) -> None:
    settings = replace(settings, owner_viewers=5, redis_url=valkey.url, lease=1)
    async with running(settings, 2) as (one, two):
        held = await one.enter(OWNER)
        await until(lambda: held.counted, "the first to be counted")
        valkey.stop()
        places = [await enter(census) for census in (one, two) for _ in range(7)]
        assert len([place for place in places if place is not None]) == 9
        await until(lambda: len(settled(places)) == 9, "all to be let in for good")
        begun = time.monotonic()
        for _ in range(500):
            one.leave(held)
            held = await one.enter(OWNER)
        assert time.monotonic() - begun < 3
        valkey.start()
        # ten are in, five too many: they stay, and nobody else is let in
        await until(lambda: not one._away and not two._away, "Redis to be found again")
        for place in places[:4]:
            if place is not None:
                one.leave(place)
        await until(lambda: one._tallies[OWNER].granted == 1, "their leaving to be told")
        assert await decided(one) is None, "the sixth"


@contextmanager
def frozen(valkey: Valkey) -> Iterator[None]:
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(valkey.pid, signal.SIGCONT)


async def test_a_place_whose_leaving_is_being_told_is_nobodys(
    settings: Settings, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis may have given it to somebody else by now."""
    monkeypatch.setattr(census_module, "_AWAY", 20)
    async with running(replace(settings, redis_url=valkey.url, owner_viewers=1), 2) as (one, two):
        first = await one.enter(OWNER)
        await until(lambda: first.counted, "the first to be counted")
        with frozen(valkey):
            one.leave(first)
            await until(lambda: OWNER not in one._changed, "its leaving to be on the way")
            second = await one.enter(OWNER)
            assert not second.counted
        await until(lambda: second.counted, "the second to be counted")
        assert await decided(two) is None, "another process"


async def test_a_frozen_redis_holds_nobody_up(settings: Settings, valkey: Valkey) -> None:
    async with running(replace(settings, redis_url=valkey.url)) as (census,):
        first = await census.enter(OWNER)
        await until(lambda: first.counted, "the first to be counted")
        with frozen(valkey):
            begun = time.monotonic()
            places = [await census.enter(f"owner {number}") for number in range(100)]
            assert time.monotonic() - begun < 2
            await until(lambda: len(settled([*places])) == 100, "all to be let in for good")
        await until(lambda: not census._away, "Redis to be found again")


# -- over HTTP ----------------------------------------------------------------------------------------------------


@pytest.fixture
def writer(engine: sa.Engine, settings: Settings) -> Iterator[Writer]:
    writer = Writer(engine, settings)
    yield writer
    writer.close()


def test_who_was_let_in_too_soon_is_sent_away_in_good_order(
    settings: Settings, writer: Writer, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census_module, "_AWAY", 20)
    settings = replace(settings, redis_url=valkey.url, owner_viewers=2, version_check=0.2)
    token = issue_token(settings, OWNER)
    with (
        served(create_app(settings)) as one,
        served(create_app(settings)) as two,
        Stream(one, writer.batch_id, token) as first,
        Stream(two, writer.batch_id, token) as second,
    ):
        first.delta()
        second.delta()
        with redis.Redis.from_url(valkey.url) as client:
            wait_for(lambda: counted(client, settings.namespace, OWNER) == 2, "both to be counted")
        with frozen(valkey), Stream(two, writer.batch_id, token) as third:
            third.delta()
            os.kill(int(valkey.pid or 0), signal.SIGCONT)
            (error,) = third.rest()
        assert error.data["code"] == "too_many_connections"
        assert [len(third.parser.retry), third.parser.retry[-1] >= 2000] == [2, True]
        first.to_version(writer.start(0))
        second.to_version(writer.progress(0, 50))


def test_two_replicas_share_the_limit_and_the_dead_do_not_count(settings: Settings, writer: Writer) -> None:
    settings = replace(settings, owner_viewers=6, lease=1.5)
    token = issue_token(settings, OWNER)
    with (
        stream_process(settings) as (one, process),
        stream_process(settings) as (two, _),
        ExitStack() as stack,
        ThreadPoolExecutor(20) as pool,
    ):

        def watch(address: str) -> Stream:
            stream = stack.enter_context(Stream(address, writer.batch_id, token))
            assert stream.status == 200
            return stream

        def refused(stream: Stream) -> bool:
            """Either at once, or a moment after it was let in."""
            try:
                event = stream.next(1.5)
                while event.name != "error":
                    event = stream.next(1.5)
            except AssertionError:
                assert not stream.ended
                return False
            assert event.data["code"] == "too_many_connections"
            assert event.data["retryable"] is True
            assert stream.parser.retry[-1] >= 2000
            assert stream.rest() == []
            return True

        streams = list(pool.map(watch, [one, two] * 10))
        verdicts = list(pool.map(refused, streams))
        assert verdicts.count(False) == 6
        for address in (one, two):
            reply = httpx.get(
                f"{address}/api/batches/{writer.batch_id}/stream",
                headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
                trust_env=False,
            )
            assert_problem(reply, 429, "too_many_requests")
            assert int(reply.headers["retry-after"]) > 0
        # somebody else is not concerned
        other = Stream(one, writer.batch_id, issue_token(settings, "berta"))
        assert other.status == 404
        other.close()

        process.send_signal(signal.SIGKILL)
        process.wait(10)
        left = [stream for stream, out in zip(streams[1::2], verdicts[1::2], strict=True) if not out]
        for number in range(6 - len(left)):
            wait_for(lambda: not refused(watch(two)), f"place {number} of the dead to be free")
        assert refused(watch(two))


async def test_one_that_was_refused_late_and_leaves_later_still_takes_nobodys_place_along(settings: Settings) -> None:
    async with running(replace(settings, owner_viewers=1), 2) as (one, two):
        with redis.Redis.from_url(settings.redis_url) as client:
            elsewhere = await decided(two)
            assert elsewhere is not None
            client.execute_command("CLIENT", "PAUSE", 400)  # long enough to be let in without an answer
            late = await enter(one)
            assert late is not None
            await until(lambda: late.refused, "the answer")
            two.leave(elsewhere)
            await asyncio.sleep(2 * census_module._MOMENT)
            assert await decided(one) is not None
            one.leave(late)
            await asyncio.sleep(2 * census_module._MOMENT)
            assert await decided(two) is None
            assert counted(client, settings.namespace, OWNER) == 1
