"""How many viewers one process takes, in all and from one address, and whose word about addresses counts."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from services.stream.app import create_app
from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER, wait_for
from tests.support.metrics import Numbers
from tests.support.sse import Stream
from tests.support.streams import stream_process
from tests.support.web import assert_problem, served
from tests.support.websockets import RawSocket
from tests.support.writer import Writer


@pytest.fixture
def token(settings: Settings) -> str:
    return issue_token(settings, OWNER)


@pytest.fixture
def writer(engine: sa.Engine, settings: Settings) -> Iterator[Writer]:
    writer = Writer(engine, settings)
    yield writer
    writer.close()


class Place:
    """Where people come to watch one batch."""

    def __init__(self, address: str, writer: Writer, token: str, stack: ExitStack) -> None:
        self.address = address
        self.numbers = Numbers(address)
        self._writer = writer
        self._token = token
        self._stack = stack

    def come(self, forwarded: str | None = None) -> Stream | None:
        """A stream; None if it is refused, which is said as it must be."""
        headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
        stream = self._stack.enter_context(Stream(self.address, self._writer.batch_id, self._token, headers=headers))
        assert stream.status == 200, "anything else ends an EventSource"
        event = stream.next()
        if event.name != "error":
            return stream
        assert (event.data["code"], event.data["retryable"]) == ("too_many_connections", True)
        assert stream.parser.retry[-1] >= 2000
        assert stream.rest() == []
        return None

    def ask(self, path: str, forwarded: str = "") -> httpx.Response:
        """As a program that takes no events."""
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        return httpx.get(
            f"{self.address}/api/batches/{self._writer.batch_id}/{path}",
            headers=headers | ({"X-Forwarded-For": forwarded} if forwarded else {}),
            trust_env=False,
        )


@contextmanager
def place(settings: Settings, writer: Writer, token: str) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(stack.enter_context(served(create_app(settings))), writer, token, stack)


def test_one_address_has_so_many(settings: Settings, writer: Writer, token: str) -> None:
    with place(replace(settings, address_viewers=2), writer, token) as here:
        first, second = here.come(), here.come()
        assert first is not None
        assert second is not None
        assert here.come() is None
        for path in ("stream", "changes"):
            reply = here.ask(path)
            assert_problem(reply, 429, "too_many_requests")
            assert int(reply.headers["retry-after"]) > 0
        with RawSocket(here.address, token) as socket:
            assert socket.status == 429
        assert here.numbers["refusals_total{address}"] == 4
        first.close()
        here.numbers.wait("viewers", 1)
        with RawSocket(here.address, token) as socket:
            assert socket.status == 101
            assert here.come() is None
        here.numbers.wait("viewers", 1)
        assert here.come() is not None
        assert here.come() is None


def test_requests_that_come_to_nothing_take_no_place(settings: Settings, writer: Writer, token: str) -> None:
    with place(replace(settings, address_viewers=1, owner_viewers=1), writer, token) as here:
        for _ in range(3):
            with Stream(here.address, "01a1fdbf-8612-7421-9952-2683ae1a9283", token) as nothing:
                assert nothing.status == 404
            assert here.ask("changes").status_code == 200
            with Stream(here.address, writer.batch_id, token, method="HEAD") as head:
                assert head.status == 200
        one = here.come()
        assert one is not None
        one.close()
        here.numbers.wait("viewers", 0)
        assert here.come() is not None


def test_what_a_client_writes_about_itself_is_not_believed(settings: Settings, writer: Writer, token: str) -> None:
    for proxies in ("", "10.0.0.0/8"):  # we come from 127.0.0.1
        with place(replace(settings, address_viewers=2, proxies=proxies), writer, token) as here:
            assert here.come("203.0.113.1") is not None
            assert here.come("203.0.113.2, 10.0.0.1") is not None
            assert here.come("203.0.113.3") is None


def test_what_our_proxy_writes_is_believed_and_nothing_before_it(
    settings: Settings, writer: Writer, token: str
) -> None:
    limits = replace(settings, address_viewers=1, proxies="127.0.0.1, 10.0.0.0/8")
    with place(limits, writer, token) as here:
        assert here.come("203.0.113.1") is not None
        assert here.come("203.0.113.2") is not None
        assert here.come("198.51.100.9, 203.0.113.2") is None
        assert here.come("203.0.113.2, 10.0.0.7") is None
        assert here.come("2a00:1:2:3::1") is not None
        assert here.come("2a00:1:2:3:ffff::2") is None
        assert here.come("2a00:1:2:4::1") is not None
        assert here.come("nonsense") is not None, "the proxy's own"
        assert here.come("more nonsense") is None
        reply = here.ask("changes", "203.0.113.1")
        assert_problem(reply, 429, "too_many_requests")


def test_those_who_arrive_at_once_are_counted_before_they_are_in(
    settings: Settings, writer: Writer, token: str
) -> None:
    """However long it takes to let each of them in."""
    for limits in (replace(settings, viewers=5), replace(settings, address_viewers=5)):
        with place(limits, writer, token) as here, ThreadPoolExecutor(20) as pool:
            streams = list(pool.map(lambda _: here.come(), range(20)))
            assert len([stream for stream in streams if stream is not None]) == 5


# -- of one owner, everywhere ---------------------------------------------------------------------------------------


def test_three_replicas_share_the_limit_of_an_owner_for_streams_and_sockets(
    settings: Settings, writer: Writer, token: str
) -> None:
    limits = replace(settings, owner_viewers=7)
    with (
        stream_process(limits) as (one, _),
        stream_process(limits) as (two, _),
        stream_process(limits) as (three, _),
        ExitStack() as stack,
        ThreadPoolExecutor(8) as pool,
    ):
        replicas = [one, two, three]
        places = [Place(address, writer, token, stack) for address in replicas]
        for place in places:
            place.numbers.wait("redis_up", 1)

        def come(number: int) -> None:
            if number % 2:
                places[number % 3].come()
            else:
                stack.enter_context(RawSocket(replicas[number % 3], token))

        list(pool.map(come, range(24)))

        def open_ones() -> float:
            read = [place.numbers.read() for place in places]
            return sum(each["connections{events}"] + each["connections{websocket}"] for each in read)

        wait_for(lambda: open_ones() == 7, "those who were let in too soon to be sent away")
        for place in places:
            # or it was let in before Redis had answered, and is told a moment later
            eighth = place.come()
            assert eighth is None or eighth.until("error")[-1].data["code"] == "too_many_connections"
        wait_for(lambda: open_ones() == 7, "the eighth to be gone")
        with RawSocket(one, issue_token(settings, "berta")) as other:
            assert other.status == 101, "somebody else's are counted apart"


# -- open files ---------------------------------------------------------------------------------------------------


def with_files(soft: int, hard: int) -> list[str]:
    """A command that becomes the one behind it, which may open so many files."""
    return ["sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh"]


def test_a_process_uses_all_the_files_that_it_may(settings: Settings) -> None:
    limits = replace(settings, viewers=2000)
    with stream_process(limits, within=with_files(256, 4000)) as (address, _):
        read = Numbers(address).read()
    assert read["process_max_fds"] == 4000
    assert read["viewers_limit"] == 2000


def test_a_process_with_too_few_files_takes_fewer_and_says_so(
    settings: Settings, writer: Writer, token: str, capfd: pytest.CaptureFixture[str]
) -> None:
    limits = replace(settings, viewers=2000)
    with stream_process(limits, within=with_files(64, 160)) as (address, _), ExitStack() as stack:
        numbers = Numbers(address)
        limit = numbers["viewers_limit"]
        assert limit == 120
        here = Place(address, writer, token, stack)
        assert len([1 for _ in range(125) if here.come() is not None]) == limit
        wait_for(lambda: numbers["viewers"] == limit, "all to be in")
    said = capfd.readouterr().err
    assert "ulimit -n" in said
    assert "HEADWAY_VIEWERS" in said
