"""Rounds over real sockets: whoever is at rest, full, late, leaving or new sees all there is, once and in order."""

import asyncio
import itertools
import socket
from random import Random
from typing import Any

import pytest
import uvloop
from msgspec.json import decode

from services.stream.advance import Advance, job_part
from services.stream.carrier import Limits
from services.stream.connection import Connection
from services.stream.delivery import Position
from services.stream.metrics import Metrics
from services.stream.pump import SLICE, Pump
from services.stream.round import Round
from services.stream.topic import Topic
from services.stream.viewer import Viewer
from services.stream.wheel import Wheel
from shared.event_ids import Filters
from shared.events import Waiting, encode
from shared.jobs import BatchStatus
from shared.outlook import Outlook
from shared.outlooks import Found
from tests.support.sse import Parser, Record
from tests.unit.test_stream_topic import Writer, batch, job

SMALL = 4096
"""Bytes of a socket's buffers: a few events."""

ALL, FEW = Filters(), Filters("changed", 5)


class House:
    """What a connection needs of the hub."""

    def __init__(self, topic: Topic, heartbeat: float = 60) -> None:
        self.metrics = Metrics()
        self.pump = Pump()
        self.wheel = Wheel(heartbeat / 4)
        self.heartbeat = heartbeat
        self.topic = topic
        self.round = Round(topic, self.pump)
        self.left: list[Viewer] = []

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a connection needs `{name}` of the hub, too")

    def leave(self, viewer: Viewer) -> None:
        self.topic.audience.leave(viewer)
        self.left.append(viewer)


class Taken:
    """A socket that is about to be handed over."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def take(self, successor: asyncio.Protocol) -> asyncio.Transport:
        self._transport.set_protocol(successor)
        return self._transport


class Reader:
    """Somebody at the other end of a socket, who reads when told to."""

    def __init__(self, near: socket.socket, connection: Connection) -> None:
        self.connection = connection
        self.record = Record()
        self._parser = Parser()
        self._socket = near

    def read(self, most: int = 2**20) -> bool:
        """Whether there was anything."""
        try:
            data = self._socket.recv(most)
        except BlockingIOError:
            return False
        for event in self._parser.feed(data):
            self.record.take(event)
        return bool(data)

    def close(self) -> None:
        self._socket.close()


async def enter(house: House, filters: Filters = ALL, position: Position | None = None, end: float = 1e9) -> Reader:
    loop = asyncio.get_running_loop()
    far, near = socket.socketpair()
    for one in (far, near):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    near.setblocking(False)
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, far)
    viewer = Viewer(house.topic, filters)
    viewer.begin(position or Position())
    house.topic.audience.enter(viewer)
    limits = Limits(end, "lifetime")
    connection = Connection(viewer, limits, house, loop.time(), route="/")  # type: ignore[arg-type]
    connection.take_over(Taken(transport))  # type: ignore[arg-type]
    return Reader(near, connection)


def reload(writer: Writer, step: int) -> None:
    """As after PostgreSQL was restored: another epoch, and none of the lines kept."""
    jobs = [job_part(writer.version, job(number, step % 100)) for number in range(5)]
    writer.topic.load(Advance(f"{step:08x}", 0, batch(writer.version), jobs, [], writer.lines))


def expect(topic: Topic, ahead: int) -> None:
    """As after a look at the queue."""
    topic.expect(Found(topic.version, Outlook(Waiting("behind", ahead=ahead))))
    topic.outlook += 1


async def settle(readers: list[Reader], house: House) -> None:
    """Everybody reads until there is nothing more."""
    quiet = 0
    while quiet < 5:
        await asyncio.sleep(0.002)
        read = [reader.read() for reader in readers]
        quiet = 0 if any(read) or house.topic.audience.awake else quiet + 1


class Play:
    """What happens by chance."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)  # noqa: S311  # nothing depends on its being a surprise
        self.writer = Writer(5)
        self.house = House(self.writer.topic)
        self.readers: list[Reader] = []
        self.lasting = seed % 3 == 0
        """Nobody leaves."""

    async def step(self, number: int) -> None:
        chance, writer, readers = self.chance, self.writer, self.readers
        match chance.randrange(9):
            case 0 if len(readers) < 150:
                for _ in range(chance.randrange(1, 20)):
                    readers.append(await enter(self.house, chance.choice([ALL, FEW])))
            case 1 if readers and not self.lasting:
                readers.pop(chance.randrange(len(readers))).close()
            case 2 | 3 | 4:
                writer.change(job(number % 5, number % 100), lines=chance.randrange(3))
                self.house.round.begin()
            case 5:
                for reader in chance.sample(readers, len(readers) // 3):
                    reader.read(chance.choice([1, 100, 10_000]))
            case 7:
                expect(writer.topic, number)
                self.house.round.begin()
            case 6 if chance.random() < 0.05:
                reload(writer, number)
                self.house.round.begin()
            case _:
                await asyncio.sleep(0)

    def check(self) -> None:
        """Once everybody has read everything."""
        audience = self.house.topic.audience
        for reader in self.readers:
            record = reader.record
            assert record.version == self.writer.version
            assert record.batch == decode(encode(self.house.topic.batch))
            shown = {key for key, job in record.jobs.items() if job["progress"]}
            assert shown == {f"job-{number}" for number in range(5)}
            if reader.connection.viewer.filters is ALL:
                assert len(record.lines) + record.left_out == self.writer.lines
        assert not audience.awake
        assert sum(len(crowd.members) for crowd in audience.crowds.values()) == len(self.readers)

    async def leave(self) -> None:
        for reader in self.readers:
            reader.close()
        await nobody(self.house)
        assert not self.house.topic.audience.crowds


async def nobody(house: House) -> None:
    """Waits until all have left."""
    while house.topic.viewers:  # noqa: ASYNC110  # what would set an event is what is tested
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_whatever_happens_everybody_has_everything_in_the_end(seed: int, loop: Any) -> None:
    async def play() -> None:
        play = Play(seed)
        for number in range(400):
            await play.step(number)
        await settle(play.readers, play.house)
        play.check()
        await play.leave()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(play())


async def test_the_end_of_a_batch_reaches_those_at_rest_and_ends_their_connection() -> None:
    writer = Writer(1)
    house = House(writer.topic)
    readers = [await enter(house) for _ in range(100)]
    await settle(readers, house)
    writer.change(job(0, 100), status=BatchStatus.COMPLETED)
    house.round.begin()
    while house.topic.viewers:
        await asyncio.sleep(0.001)
        for reader in readers:
            reader.read()
    for reader in readers:
        reader.read()
        assert reader.record.events[-1].name == "complete"
        reader.close()


async def test_a_socket_that_is_full_takes_only_its_own_viewer_out_of_the_crowd() -> None:
    writer = Writer(1)
    house = House(writer.topic)
    stuck, *others = readers = [await enter(house) for _ in range(5)]
    await settle(readers, house)
    for step in range(200):
        writer.change(job(0, step % 100))
        house.round.begin()
        await asyncio.sleep(0)
        for reader in others:
            reader.read()
    async with asyncio.timeout(10):
        while house.topic.audience.awake != {stuck.connection.viewer}:
            await asyncio.sleep(0.001)
            for reader in others:
                reader.read()
    assert all(len(reader.record.events) > 100 for reader in others)
    await settle(readers, house)
    assert stuck.record.version == writer.version
    assert len(stuck.record.events) < 60, "what it missed came together"
    for reader in readers:
        reader.close()
    await nobody(house)


async def test_heartbeats_and_lifetimes_come_from_the_wheel() -> None:
    writer = Writer(1)
    house = House(writer.topic, heartbeat=0.5)
    house.wheel.start()
    begin = asyncio.get_running_loop().time()
    reader = await enter(house, end=begin + 3)
    busy = await enter(house, end=begin + 3)
    while house.topic.viewers:
        await asyncio.sleep(0.02)
        reader.read()
        busy.read()
        if asyncio.get_running_loop().time() < begin + 1:
            writer.change(job(0, 1))
            house.round.begin()
    house.wheel.stop()
    reader.read()
    names = [event.name for event in reader.record.events]
    assert names[-1] == "timeout"
    assert 1 <= names.count("ping") <= 4, "only in silence"
    for one in (reader, busy):
        one.close()


async def test_a_failing_turn_costs_one_connection_and_no_other() -> None:
    pump = Pump()
    done = []

    class One:
        queued = False

        def __init__(self, number: int) -> None:
            self.number = number

        def turn(self, now: float) -> None:  # noqa: ARG002  # a turn's signature
            if self.number == 1:
                raise ValueError
            done.append(self.number)

        def cut(self) -> None:
            done.append(-self.number)

    for number in range(3):
        pump.add(One(number))
    await asyncio.sleep(0.01)
    assert done == [0, -1, 2]


async def test_nothing_that_a_connection_does_stops_the_pump_or_the_wheel() -> None:
    pump, wheel = Pump(), Wheel(0.01)
    done: list[int] = []

    class Bad:
        queued = False

        def turn(self, now: float) -> None:
            raise ValueError(now)

        def due(self, now: float) -> float | None:
            raise ValueError(now)

        def cut(self) -> None:
            raise ValueError

    class Good:
        queued = False

        def turn(self, now: float) -> None:  # noqa: ARG002  # a turn's signature
            done.append(1)

        def due(self, now: float) -> float | None:  # noqa: ARG002  # the wheel's
            done.append(2)
            return None

        def cut(self) -> None: ...

    async def until(wanted: list[int]) -> None:
        async with asyncio.timeout(10):
            while sorted(done) != wanted:  # noqa: ASYNC110  # nobody sets an event
                await asyncio.sleep(0.001)

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    now = asyncio.get_running_loop().time()
    wheel.start()
    for one in (Bad(), Good()):
        pump.add(one)
        wheel.add(one, now)
    await until([1, 2])
    pump.add(Good())
    wheel.add(Good(), now)
    await until([1, 1, 2, 2])
    wheel.stop()


async def test_others_are_served_between_turns() -> None:
    loop = asyncio.get_running_loop()
    pump = Pump()
    passed: list[int] = []
    turns = []

    class Busy:
        queued = False

        def turn(self, now: float) -> None:  # noqa: ARG002  # a turn's signature
            until = loop.time() + SLICE / 4
            while loop.time() < until:
                pass
            turns.append(1)

        def cut(self) -> None: ...

    for _ in range(100):
        pump.add(Busy())

    def look() -> None:
        passed.append(len(turns))
        if len(turns) < 100:
            loop.call_soon(look)

    loop.call_soon(look)
    while len(turns) < 100:  # noqa: ASYNC110  # what would set an event is what is tested
        await asyncio.sleep(0)
    assert max(later - earlier for earlier, later in itertools.pairwise(passed)) <= 16
