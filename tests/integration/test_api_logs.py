"""`GET …/logs`: a batch's log lines in pages, searched, and as a file."""

import re
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
import sqlalchemy as sa
from litestar import Litestar

from services.api import logs, search
from services.api.app import create_app
from shared import models
from shared.auth import issue_ticket, issue_token, verify_token
from shared.settings import Settings
from tests.support.batches import OWNER, make_batch
from tests.support.web import assert_problem, client, decoded, served, wrong_paths
from tests.support.writer import Writer

JSON = dict[str, Any]

MANY = 100_000


@pytest.fixture
def app(settings: Settings) -> Litestar:
    return create_app(settings)


@pytest.fixture
def address(app: Litestar) -> Iterator[str]:
    with served(app) as address:
        yield address


@pytest.fixture
def read(anna: httpx.Client, writer: Writer) -> Callable[..., JSON]:
    def read(**query: Any) -> JSON:
        reply = anna.get(f"/api/batches/{writer.batch_id}/logs", params=query)
        assert reply.status_code == 200, reply.text
        return decoded(reply)

    return read


@pytest.fixture
def add(engine: sa.Engine, writer: Writer) -> Callable[..., None]:
    """Lines straight into the table, in a version of their own: (position, n, seconds, level, text) each."""

    def add(*lines: tuple[int, int, float, str, str]) -> None:
        with engine.begin() as connection:
            version = connection.execute(
                sa.update(models.batches)
                .where(models.batches.c.id == writer.batch_id)
                .values(version=models.batches.c.version + 1)
                .returning(models.batches.c.version)
            ).scalar_one()
            for position, n, seconds, level, text in lines:
                connection.execute(
                    sa.insert(models.log_lines).values(
                        job_id=writer.jobs[position],
                        n=n,
                        batch_id=writer.batch_id,
                        attempt=1,
                        at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds),
                        level=level,
                        text=text,
                        version=version,
                    )
                )

    return add


def fill(settings: Settings, batch_id: UUID, job_id: UUID, lines: int) -> None:
    """So many lines of one job; every hundred of them are one version, and every ten written at the same time."""
    with psycopg.connect(settings.database_url) as connection:
        connection.execute(
            """
            INSERT INTO log_lines (job_id, n, batch_id, attempt, at, level, text, version)
            SELECT %s, n, %s, 1, timestamptz '2026-01-01Z' + n / 10 * interval '1 ms', 'log',
                'line ' || n || ' ' || repeat('x', 60), 2 + n / 100
            FROM generate_series(1, %s) AS n
            """,
            [job_id, batch_id, lines],
        )
        connection.execute("UPDATE batches SET version = %s WHERE id = %s", [2 + lines // 100, batch_id])


def pages(read: Callable[..., JSON], **query: Any) -> list[list[JSON]]:
    found, cursor = [], None
    while not found or cursor is not None:
        page = read(**query, **({"cursor": cursor} if cursor else {}))
        found.append(page["items"])
        cursor = page["nextCursor"]
    return found


def texts(page: JSON) -> list[str]:
    return [line["text"] for line in page["items"]]


# -- lists --------------------------------------------------------------------------------------------------------


def test_items_are_the_lines_of_the_stream_in_their_order(read: Callable[..., JSON], writer: Writer) -> None:
    writer.start(0, 1)
    for position in (1, 0, 1):
        writer.progress(position, lines=2)
    truth = writer.state()["lines"]

    page = read()

    assert page == {"items": list(truth.values())[::-1], "nextCursor": None}
    one = read(job=str(writer.jobs[1]))["items"]
    assert [line["n"] for line in one] == [1, 2, 3, 4]
    assert all(line["jobId"] == str(writer.jobs[1]) for line in one)
    assert read(job=str(writer.jobs[2])) == {"items": [], "nextCursor": None}


def test_one_version_is_ordered_by_time_job_and_number(
    read: Callable[..., JSON], add: Callable[..., None], writer: Writer
) -> None:
    add((0, 2, 5, "info", "d"), (0, 1, 5, "info", "c"), (1, 1, 5, "info", "e"), (1, 2, 6, "info", "f"))
    add((2, 1, 1, "info", "g"))  # later, by a clock that is behind
    writer_order = sorted(writer.jobs[:2])
    assert writer_order == writer.jobs[:2]

    assert texts(read()) == ["c", "d", "e", "f", "g"]
    for limit in (1, 2, 3):
        assert [line["text"] for page in pages(read, limit=limit) for line in page] == ["c", "d", "e", "f", "g"]


def test_pages_are_full_and_end_exactly(read: Callable[..., JSON], writer: Writer) -> None:
    writer.start(0, 1)
    for position in (0, 1):
        writer.progress(position, lines=30)

    assert [len(page) for page in pages(read, limit=20)] == [20, 20, 20]
    assert [len(page) for page in pages(read, limit=25, job=str(writer.jobs[0]))] == [25, 5]
    assert len(read()["items"]) == 50
    whole = read(limit=1000)["items"]
    assert [line for page in pages(read, limit=7) for line in page] == whole


def test_lines_that_come_while_somebody_turns_pages_are_at_the_end(read: Callable[..., JSON], writer: Writer) -> None:
    writer.start(0, 1)
    writer.progress(1, lines=4)
    first = read(limit=3)
    writer.progress(0, lines=2)

    rest = read(limit=10, cursor=first["nextCursor"])

    told = [(line["jobId"], line["n"]) for line in first["items"] + rest["items"]]
    assert told == [(str(writer.jobs[1]), n) for n in (1, 2, 3, 4)] + [(str(writer.jobs[0]), n) for n in (1, 2)]


def test_levels(read: Callable[..., JSON], add: Callable[..., None]) -> None:
    add(*((0, n, n, level, level) for n, level in enumerate(("phase", "info", "success", "warn", "error", "log"), 1)))

    assert texts(read(level="warn")) == ["warn"]
    assert texts(read(level="error,phase,error")) == ["phase", "error"]
    assert texts(read(level="phase,info,success,warn,error,log")) == texts(read())


def test_text_in_any_case_and_nothing_of_it_is_a_pattern(
    read: Callable[..., JSON], add: Callable[..., None], writer: Writer
) -> None:
    add((0, 1, 1, "info", "Écran allumé"), (0, 2, 2, "warn", "100% of_it"), (1, 1, 3, "info", "1000 of it"))

    assert texts(read(q="éCRAN ")) == ["Écran allumé"]
    assert texts(read(q="0%")) == texts(read(q="F_I")) == ["100% of_it"]
    assert texts(read(q="")) == texts(read())
    assert texts(read(q="of", level="info")) == ["1000 of it"]
    assert texts(read(q="of", job=str(writer.jobs[0]))) == ["100% of_it"]
    assert texts(read(q="'; DROP TABLE log_lines; --")) == []


def test_a_search_looks_at_so_many_lines_at_a_time_and_misses_none(
    read: Callable[..., JSON], add: Callable[..., None], monkeypatch: pytest.MonkeyPatch, writer: Writer
) -> None:
    monkeypatch.setattr(search, "WINDOW", 5)
    add(*((0, n, n // 3, "info", f"line {n}" + " needle" * (n in {4, 5, 9, 23})) for n in range(1, 25)))
    needles = [4, 5, 9, 23]

    for query in ({}, {"job": str(writer.jobs[0])}):
        assert [line["n"] for line in read(q="needle", limit=4, **query)["items"]] == needles
        for limit in (1, 2, 3):
            found = pages(read, q="needle", limit=limit, **query)
            assert [line["n"] for page in found for line in page] == needles
            assert all(len(page) == limit for page in found[:-1])
        assert [line["n"] for line in read(limit=4, **query)["items"]] == [1, 2, 3, 4]


def test_a_search_that_takes_long_gives_out_what_it_has(
    read: Callable[..., JSON], add: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "WINDOW", 5)
    monkeypatch.setattr(logs, "_PATIENCE", 0)
    add(*((0, n, n, "info", f"line {n}" + " needle" * (n == 17)) for n in range(1, 19)))

    first = read(q="needle")
    assert first["items"] == []
    assert first["nextCursor"] is not None
    assert [line["n"] for page in pages(read, q="needle") for line in page] == [17]


# -- refusals -----------------------------------------------------------------------------------------------------


def test_who_may_read(address: str, anna: httpx.Client, writer: Writer, settings: Settings, engine: sa.Engine) -> None:
    path = f"/api/batches/{writer.batch_id}/logs"
    claims = verify_token(settings, issue_token(settings, OWNER))
    ticket, _ = issue_ticket(settings, claims, writer.batch_id)
    other = make_batch(engine)
    others, _ = issue_ticket(settings, claims, other)

    assert_problem(httpx.get(address + path), 401, "unauthenticated")
    assert httpx.get(address + path, params={"ticket": ticket}).status_code == 200
    assert httpx.get(address + path, params={"ticket": ticket, "format": "text"}).status_code == 200
    assert_problem(httpx.get(address + path, params={"ticket": others}), 404, "not_found")
    with client(address, settings, "bert") as bert:
        assert_problem(bert.get(path), 404, "not_found")
        assert_problem(bert.get(path, params={"format": "text"}), 404, "not_found")
    with client(address, settings, scope="write") as writes:
        assert_problem(writes.get(path), 403, "forbidden")
    with client(address, settings, scope="read") as reads:
        assert reads.get(path).status_code == 200
    for job in (uuid4(), job_of(engine, other)):
        for format_ in ("json", "text"):
            assert_problem(anna.get(path, params={"job": str(job), "format": format_}), 404, "not_found")


def job_of(engine: sa.Engine, batch_id: UUID) -> UUID:
    with engine.connect() as connection:
        query = sa.select(models.jobs.c.id).where(models.jobs.c.batch_id == batch_id)
        return UUID(str(connection.execute(query).scalar_one()))


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("level=verbose", ["level"]),
        ("level=", ["level"]),
        ("level=info,,warn", ["level"]),
        ("level=INFO", ["level"]),
        (f"q={'x' * 201}", ["q"]),
        ("q=%00", ["q"]),
        ("job=1", ["job"]),
        ("format=xml", ["format"]),
        ("limit=1001&colour=red", ["limit", "colour"]),
        ("format=text&limit=50", ["limit"]),
        ("format=text&limit=5&cursor=abc", ["limit", "cursor"]),
    ],
)
def test_wrong_parameters_are_named(anna: httpx.Client, writer: Writer, query: str, wrong: list[str]) -> None:
    assert wrong_paths(anna.get(f"/api/batches/{writer.batch_id}/logs?{query}")) == wrong


def test_a_level_that_is_none_is_named(anna: httpx.Client, writer: Writer) -> None:
    reply = anna.get(f"/api/batches/{writer.batch_id}/logs", params={"level": "info,verbose,fatal"})

    messages = [error["message"] for error in assert_problem(reply, 422, "invalid")["errors"]]
    assert messages == [
        f"'{level}' is none of phase, info, success, warn, error, log" for level in ("verbose", "fatal")
    ]


def test_a_cursor_is_for_its_own_list(anna: httpx.Client, writer: Writer, read: Callable[..., JSON]) -> None:
    writer.start(0)
    writer.progress(0, lines=3)
    cursor = read(limit=1)["nextCursor"]

    path = f"/api/batches/{writer.batch_id}/logs"
    assert_problem(anna.get(path, params={"cursor": cursor, "job": str(writer.jobs[0])}), 400, "malformed")
    assert_problem(anna.get(path, params={"cursor": "nonsense"}), 400, "malformed")
    assert len(read(cursor=cursor)["items"]) == 2


# -- the file -----------------------------------------------------------------------------------------------------


def test_the_file_has_a_line_for_each(anna: httpx.Client, writer: Writer, add: Callable[..., None]) -> None:
    add((0, 1, 0.125, "info", "It begins"), (2, 1, 7, "success", "Done: ünïcödé"))

    reply = anna.get(f"/api/batches/{writer.batch_id}/logs", params={"format": "text"})

    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["content-disposition"] == f'attachment; filename="batch-{writer.batch_id}.log"'
    assert reply.headers["cache-control"] == "no-store"
    assert reply.content.decode() == (
        "2026-01-01T00:00:00.125Z info    #0 job 0 (attempt 1): It begins\n"
        "2026-01-01T00:00:07.000Z success #2 job 2 (attempt 1): Done: ünïcödé\n"
    )
    some = anna.get(f"/api/batches/{writer.batch_id}/logs", params={"format": "text", "level": "info", "q": "BEG"})
    assert some.text.count("\n") == 1
    one = anna.get(f"/api/batches/{writer.batch_id}/logs", params={"format": "text", "job": str(writer.jobs[2])})
    assert one.text.startswith("2026-01-01T00:00:07.000Z success #2")
    none = anna.get(f"/api/batches/{writer.batch_id}/logs", params={"format": "text", "q": "nothing"})
    assert (none.status_code, none.content) == (200, b"")


def test_a_hundred_thousand_lines(anna: httpx.Client, writer: Writer, settings: Settings) -> None:
    fill(settings, writer.batch_id, writer.jobs[0], MANY)

    for query in ({}, {"job": str(writer.jobs[0])}):
        reply = anna.get(f"/api/batches/{writer.batch_id}/logs", params={"format": "text", **query})
        numbers = [int(number) for number in re.findall(r": line (\d+) x+\n", reply.text)]
        assert numbers == list(range(1, MANY + 1))
    rare = anna.get(f"/api/batches/{writer.batch_id}/logs", params={"q": f"line {MANY - 1} "})
    assert [line["n"] for line in decoded(rare)["items"]] == [MANY - 1]


class Slow:
    """A client that takes a download a little at a time."""

    def __init__(self, address: str, path: str, token: str) -> None:
        parts = urlsplit(address)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        self._socket.settimeout(20)
        self._socket.connect((parts.hostname, parts.port))
        head = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {token}\r\n\r\n"
        self._socket.sendall(head.encode())
        self.received = b""

    def read(self, size: int) -> None:
        while len(self.received) < size:
            piece = self._socket.recv(4096)
            assert piece, "the end"
            self.received += piece

    def read_all(self) -> None:
        while piece := self._socket.recv(65536):
            self.received += piece
            if self.received.endswith(b"\r\n0\r\n\r\n"):
                break

    def close(self) -> None:
        self._socket.close()

    @property
    def ended(self) -> bool:
        """Whether the server said that this was all."""
        return self.received.endswith(b"\r\n0\r\n\r\n")


@pytest.fixture
def slow(address: str, writer: Writer, settings: Settings) -> Iterator[Slow]:
    fill(settings, writer.batch_id, writer.jobs[0], MANY)
    slow = Slow(address, f"/api/batches/{writer.batch_id}/logs?format=text", issue_token(settings, OWNER))
    slow.read(1000)
    yield slow
    slow.close()


def test_a_slow_reader_holds_no_connection_and_little_memory(
    asked: Callable[[], int], slow: Slow, app: Litestar, settings: Settings
) -> None:
    assert asked() * logs._AT_ONCE < MANY / 2  # the kernel takes up to four megabytes
    assert app.state.resources.engine.pool.checkedout() == 0
    with psycopg.connect(settings.database_url) as connection:
        states = connection.execute("SELECT state FROM pg_stat_activity WHERE application_name = 'headway api'")
        assert {state for (state,) in states} == {"idle"}

    slow.read_all()
    assert slow.ended
    assert slow.received.count(b": line ") == MANY


@pytest.fixture
def asked(app: Litestar) -> Callable[[], int]:
    """How many pages PostgreSQL has been asked for, as soon as nothing more is asked."""
    seen: list[str] = []
    engine = app.state.resources.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *given: seen.append(given[2]))

    def asked() -> int:
        before = -1
        while before != (before := sum("FROM log_lines" in statement for statement in seen)):
            time.sleep(0.5)  # fifty times what one takes
        return before

    return asked


def test_lines_that_come_after_the_beginning_are_not_waited_for(slow: Slow, writer: Writer) -> None:
    writer.start(1)
    writer.progress(1, lines=3, text="late")

    slow.read_all()

    assert slow.ended
    assert b"late" not in slow.received


def test_a_reader_that_goes_away_is_not_read_for(asked: Callable[[], int], slow: Slow, app: Litestar) -> None:
    slow.close()

    assert asked() * logs._AT_ONCE < MANY / 2  # the kernel takes up to four megabytes
    assert app.state.resources.engine.pool.checkedout() == 0


def test_a_deleted_batch_cuts_the_file_off(slow: Slow, writer: Writer) -> None:
    writer.delete()
    slow.read_all()

    assert not slow.ended
    assert 0 < slow.received.count(b": line ") < MANY


def test_without_postgresql_a_file_is_refused_or_cut_off(
    slow: Slow, settings: Settings, anna: httpx.Client, writer: Writer, engine: sa.Engine
) -> None:
    engine.dispose()
    url, name = settings.database_url, settings.database_url.rpartition("/")[2]
    with psycopg.connect(url.removesuffix(name) + "template1", autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            slow.read_all()
            refused = anna.get(f"/api/batches/{writer.batch_id}/logs", params={"format": "text"})
        finally:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')

    assert not slow.ended
    assert slow.received.count(b": line ") < MANY
    assert_problem(refused, 503, "unavailable")
    assert int(refused.headers["retry-after"]) > 0
