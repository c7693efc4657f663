"""`GET …/changes`: what docs/protocol.md promises of it, over HTTP with a real PostgreSQL and Redis."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import psycopg
import pytest
import sqlalchemy as sa
from litestar import Litestar
from msgspec.structs import replace

from services.stream.app import create_app
from services.stream.hub import Hub
from shared import models
from shared.auth import issue_ticket, issue_token, verify_token
from shared.deletion import delete_batch
from shared.event_ids import EventId, Filters, batch_check, parse_event_id
from shared.jobs import JobStatus
from shared.settings import Settings
from tests.support.batches import OWNER, make_batch, wait_for
from tests.support.sse import Record, Stream, certain
from tests.support.web import assert_problem, client, decoded, served, wrong_paths
from tests.support.writer import Writer

JSON = dict[str, Any]

LONG = 20.0
"""Seconds that a held request may be held; no test waits for their end."""


@pytest.fixture
def app(settings: Settings) -> Litestar:
    return create_app(settings)


@pytest.fixture
def hub(app: Litestar) -> Hub:
    hub: Hub = app.state.hub
    return hub


@pytest.fixture
def address(app: Litestar) -> Iterator[str]:
    with served(app) as address:
        yield address


@pytest.fixture
def changes(anna: httpx.Client, writer: Writer) -> Callable[..., JSON]:
    def ask(since: str = "0", **query: Any) -> JSON:
        return told(anna.get(f"/api/batches/{writer.batch_id}/changes", params={"since": since} | query))

    return ask


@pytest.fixture
def hold(anna: httpx.Client, writer: Writer, hub: Hub) -> Iterator[Callable[..., Future[httpx.Response]]]:
    """A request that is held by the time this returns."""
    with ThreadPoolExecutor(30) as pool:
        asked: list[Future[httpx.Response]] = []

        def ask(since: str, **query: Any) -> Future[httpx.Response]:
            held = sum(not reply.done() for reply in asked)
            wait_for(lambda: watching(hub) == held, "those before to leave")
            query = {"since": since, "wait": LONG} | query
            reply = pool.submit(anna.get, f"/api/batches/{writer.batch_id}/changes", params=query, timeout=2 * LONG)
            asked.append(reply)
            wait_for(lambda: watching(hub) > held or reply.done(), "the request to be held")
            assert not reply.done(), reply.result().text
            return reply

        yield ask


def watching(hub: Hub) -> int:
    return sum(len(keeper.topic.viewers) for keeper in tuple(hub.topics.keepers.values()))


def told(reply: httpx.Response) -> JSON:
    assert reply.status_code == 200, reply.text
    said = decoded(reply)
    assert list(said) == ["id", "version", "reset", "reason", "done", "batch", "truncated", "jobs", "lines"]
    assert said["version"] == said["batch"]["version"]
    event_id = parse_event_id(said["id"])
    assert event_id is not None
    assert event_id.version == said["version"]
    assert said["reset"] == (said["reason"] is not None)
    return said


def finish_all(writer: Writer) -> int:
    for position in range(3):
        writer.start(position)
    writer.finish(0, lines=1)
    writer.finish(1, JobStatus.FAILED)
    return writer.finish(2)


# -- content ------------------------------------------------------------------------------------------------------


def test_the_first_reply_is_the_whole_state(anna: httpx.Client, writer: Writer) -> None:
    writer.start(0, 1)
    writer.progress(0, 30, lines=3)
    truth = writer.state()

    for query in ("", "?since=0", "?since=&wait=5"):
        reply = anna.get(f"/api/batches/{writer.batch_id}/changes{query}")
        said = told(reply)
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["cache-control"] == "no-store"
        assert (said["reset"], said["reason"], said["done"], said["truncated"]) == (False, None, False, None)
        assert certain(said["batch"]) == certain(truth["batch"])
        assert {job["id"]: job for job in said["jobs"]} == truth["jobs"]
        assert said["lines"] == list(truth["lines"].values())[::-1]


def test_then_only_what_changed(changes: Callable[..., JSON], writer: Writer) -> None:
    first = changes()

    writer.start(1)
    started = changes(first["id"])
    assert [(job["position"], job["status"]) for job in started["jobs"]] == [(1, "PROCESSING")]
    assert started["lines"] == []
    writer.progress(1, 40, lines=2)
    writer.start(2)
    then = changes(started["id"])
    assert [(job["position"], job["progress"]) for job in then["jobs"]] == [(1, 40), (2, 0)]
    assert [line["n"] for line in then["lines"]] == [1, 2]
    both = changes(first["id"])
    assert (both["jobs"], both["lines"]) == (then["jobs"], then["lines"])
    assert (both["id"], both["batch"]) == (then["id"], then["batch"])


def test_nothing_new_is_the_same_id_and_the_present_batch(changes: Callable[..., JSON], writer: Writer) -> None:
    writer.start(0)
    first = changes()

    again = changes(first["id"])

    assert again == first | {"jobs": [], "lines": []}


def test_what_was_committed_before_is_in_a_reply_that_did_not_wait(
    changes: Callable[..., JSON], writer: Writer
) -> None:
    first = changes()
    writer.publish = False  # nobody tells

    writer.start(0)

    assert changes(first["id"])["version"] == 2
    writer.start(1)
    assert changes()["version"] == 3


def test_ids_are_those_of_the_stream_in_both_directions(
    changes: Callable[..., JSON], writer: Writer, address: str, settings: Settings
) -> None:
    token = issue_token(settings, OWNER)
    stream = Stream(address, writer.batch_id, token)
    stream.delta()
    assert changes()["id"] == stream.record.id
    writer.start(0)
    stream.delta()
    stream.close()
    writer.start(1)
    said = changes(stream.record.id)
    assert [job["position"] for job in said["jobs"]] == [1]

    onward = Stream(address, writer.batch_id, token, record=Record(said["id"]))
    writer.start(2)
    (progress,) = onward.delta()
    assert [job["position"] for job in progress.data["jobs"]] == [2]
    onward.close()


def test_filters_and_what_is_left_out(changes: Callable[..., JSON], writer: Writer) -> None:
    writer.start(1)
    writer.progress(1, lines=5)

    assert len(changes(jobs="all")["jobs"]) == 3
    assert [job["position"] for job in changes(jobs="changed")["jobs"]] == [1]
    assert changes(jobs="none")["jobs"] == []
    few = changes(logs=2)
    assert [line["n"] for line in few["lines"]] == [4, 5]
    assert few["truncated"] == {"count": 3, "logsUrl": f"/api/batches/{writer.batch_id}/logs"}
    writer.progress(1, 20, lines=3)
    more = changes(few["id"], logs=2)
    assert ([line["n"] for line in more["lines"]], more["truncated"]) == ([6, 7, 8], None)
    none = changes(logs=0)
    assert (none["lines"], none["truncated"]) == ([], None)


def test_more_lines_than_a_reply_carries(changes: Callable[..., JSON], writer: Writer) -> None:
    writer.start(0)
    first = changes()
    writer.progress(0, 10, lines=1500)

    said = changes(first["id"])

    assert [line["n"] for line in said["lines"]] == list(range(501, 1501))
    assert said["truncated"]["count"] == 500


@pytest.mark.parametrize("what", ["invalid_id", "another batch", "filters", "ahead", "epoch"])
def test_an_id_that_cannot_be_gone_on_from_gets_a_whole_snapshot(
    what: str, changes: Callable[..., JSON], writer: Writer, engine: sa.Engine
) -> None:
    writer.start(0)
    first = changes()
    event_id = parse_event_id(first["id"])
    assert event_id is not None
    check, version = batch_check(writer.batch_id), event_id.version
    since = {
        "invalid_id": "nonsense",
        "another batch": str(EventId(event_id.epoch, batch_check(make_batch(engine)), version, Filters())),
        "filters": str(EventId(event_id.epoch, check, version, Filters("none"))),
        "ahead": str(EventId(event_id.epoch, check, version + 1, Filters())),
        "epoch": str(EventId("00000000", check, version, Filters())),
    }[what]

    said = changes(since, wait=LONG)

    reason = "invalid_id" if what == "another batch" else what
    assert said == first | {"reset": True, "reason": reason}


def test_the_id_of_a_reset_begins_anew_without_another(changes: Callable[..., JSON], writer: Writer) -> None:
    first = changes()
    nothing_yet = str(EventId("00000000", batch_check(writer.batch_id), 0, Filters()))

    assert changes(nothing_yet) == first


def test_a_reply_of_many_pieces(engine: sa.Engine, settings: Settings, anna: httpx.Client) -> None:
    writer = Writer(engine, settings, jobs=100)
    writer.start(*range(100))
    for position in range(100):
        writer.progress(position, 50, lines=4, text="é" * 400, message="m" * 600)

    reply = anna.get(f"/api/batches/{writer.batch_id}/changes")

    said, truth = told(reply), writer.state()
    assert len(reply.content) > 3 * 64 * 1024
    assert {job["id"]: job for job in said["jobs"]} == truth["jobs"]
    assert {(line["jobId"], line["n"]): line for line in said["lines"]} == truth["lines"]
    writer.close()


# -- waiting ------------------------------------------------------------------------------------------------------


def test_the_first_change_ends_the_waiting(
    changes: Callable[..., JSON], hold: Callable[..., Future[httpx.Response]], writer: Writer
) -> None:
    first = changes()
    began = time.monotonic()
    held = hold(first["id"])

    writer.start(2)
    said = told(held.result())

    assert [job["position"] for job in said["jobs"]] == [2]
    assert time.monotonic() - began < LONG / 2


def test_when_nothing_happens_the_reply_comes_at_the_end(changes: Callable[..., JSON]) -> None:
    first = changes()
    began = time.monotonic()

    said = changes(first["id"], wait="0.4")

    assert said == first | {"jobs": [], "lines": []}
    assert time.monotonic() - began >= 0.4


def test_whoever_is_behind_does_not_wait(changes: Callable[..., JSON], writer: Writer) -> None:
    first = changes()
    writer.start(0)
    changes(first["id"])
    began = time.monotonic()

    changes(first["id"], wait=LONG)
    changes(wait=LONG)

    assert time.monotonic() - began < LONG / 2


def test_a_finished_batch_is_waited_for_and_goes_on_when_it_is_reopened(
    changes: Callable[..., JSON],
    hold: Callable[..., Future[httpx.Response]],
    writer: Writer,
    address: str,
    settings: Settings,
) -> None:
    last = finish_all(writer)
    first = changes()
    assert (first["done"], first["version"], first["batch"]["status"]) == (True, last, "PARTIAL")
    again = changes(first["id"], wait=0.2)
    assert again == first | {"jobs": [], "lines": []}
    held = hold(first["id"])

    writer.retry_failed()
    said = told(held.result())

    assert (said["done"], said["batch"]["status"], said["batch"]["summary"]) == (False, "PROCESSING", None)
    assert [(job["position"], job["status"]) for job in said["jobs"]] == [(1, "QUEUED")]
    # a stream with the old id, or with the new one, goes on without a reset
    token = issue_token(settings, OWNER)
    old, new = (Stream(address, writer.batch_id, token, record=Record(one["id"])) for one in (first, said))
    (progress,) = old.delta()
    assert [job["position"] for job in progress.data["jobs"]] == [1]
    writer.start(1)
    for stream in (old, new):
        (progress,) = stream.delta()
        assert [(job["position"], job["status"]) for job in progress.data["jobs"]] == [(1, "PROCESSING")]
    writer.finish(1)
    for stream in (old, new):
        assert stream.delta()[-1].name == "complete"
        stream.close()
    assert changes(said["id"])["done"]


def test_a_new_epoch_ends_the_waiting_with_a_reset(engine: sa.Engine, settings: Settings, writer: Writer) -> None:
    app = create_app(replace(settings, version_check=0.1))
    with served(app) as address, client(address, settings) as anna, ThreadPoolExecutor(1) as pool:
        path = f"/api/batches/{writer.batch_id}/changes"
        first = told(anna.get(path))
        held = pool.submit(anna.get, path, params={"since": first["id"], "wait": LONG}, timeout=2 * LONG)
        wait_for(lambda: watching(app.state.hub), "the request to be held")
        began = time.monotonic()
        with engine.begin() as connection:
            connection.execute(sa.update(models.installation).values(secret="another"))  # noqa: S106  # it is a test's
        said = told(held.result())
        assert time.monotonic() - began < LONG / 2
    assert (said["reset"], said["reason"], len(said["jobs"])) == (True, "epoch", 3)
    assert said["id"] != first["id"]


def test_a_deleted_batch_is_not_there_any_more(
    changes: Callable[..., JSON],
    hold: Callable[..., Future[httpx.Response]],
    writer: Writer,
    engine: sa.Engine,
    anna: httpx.Client,
) -> None:
    finish_all(writer)
    held = hold(changes()["id"])

    with engine.begin() as connection:
        frame = delete_batch(connection, writer.batch_id, upload_ttl=60)
    writer._tell(frame)

    assert_problem(held.result(), 404, "not_found")
    assert_problem(anna.get(f"/api/batches/{writer.batch_id}/changes"), 404, "not_found")


def test_a_client_that_goes_away_is_not_waited_for(
    changes: Callable[..., JSON], writer: Writer, hub: Hub, address: str, settings: Settings
) -> None:
    first = changes()
    parts = urlsplit(address)
    head = f"GET /api/batches/{writer.batch_id}/changes?since={first['id']}&wait={LONG} HTTP/1.1\r\n"
    head += f"Host: {parts.netloc}\r\nAuthorization: Bearer {issue_token(settings, OWNER)}\r\n\r\n"
    began = time.monotonic()
    with socket.create_connection((parts.hostname, parts.port)) as connection:  # type: ignore[arg-type]
        connection.sendall(head.encode())
        wait_for(lambda: watching(hub) == 1, "the request to be held")

    wait_for(lambda: watching(hub) == 0 and not hub.present, "the request to be given up")
    assert time.monotonic() - began < LONG / 2


def test_many_wait_without_threads_or_connections_to_postgresql(
    changes: Callable[..., JSON],
    hold: Callable[..., Future[httpx.Response]],
    writer: Writer,
    hub: Hub,
    settings: Settings,
) -> None:
    first = changes()
    held = [hold(first["id"])]
    threads = len(threads_of_the_server())
    held += [hold(first["id"], jobs="all") for _ in range(24)]

    assert watching(hub) == 25
    assert len(threads_of_the_server()) < threads + 3, "one to look up PostgreSQL's address, perhaps"
    with psycopg.connect(settings.database_url, autocommit=True) as connection:

        def idle() -> bool:
            """But for a moment in which versions are compared."""
            states = connection.execute(
                "SELECT state FROM pg_stat_activity WHERE application_name = 'headway-stream'"
            ).fetchall()
            return states == [("idle",)] * len(states) and not hub.history._engine.pool.checkedout()  # type: ignore[attr-defined]

        wait_for(idle, "nobody to hold a connection")
    assert watching(hub) == 25, "all are still held"
    writer.start(0)
    assert len({reply.result().content for reply in held}) == 1


def threads_of_the_server() -> list[str]:
    """But for those in which the tests themselves wait."""
    return [thread.name for thread in threading.enumerate() if not thread.name.startswith("ThreadPoolExecutor")]


# -- ends and refusals --------------------------------------------------------------------------------------------


def test_a_server_that_leaves_answers_at_once_with_what_there_is(
    changes: Callable[..., JSON],
    hold: Callable[..., Future[httpx.Response]],
    hub: Hub,
    anna: httpx.Client,
    writer: Writer,
) -> None:
    first = changes()
    held = hold(first["id"])
    began = time.monotonic()

    asyncio.run_coroutine_threadsafe(hub.drain(), hub.topics.source._tasks[0].get_loop()).result()
    reply = held.result()

    assert told(reply) == first | {"jobs": [], "lines": []}
    assert time.monotonic() - began < LONG / 2
    assert reply.headers["connection"] == "close"
    refused = anna.get(f"/api/batches/{writer.batch_id}/changes")
    assert_problem(refused, 503, "unavailable")
    assert int(refused.headers["retry-after"]) > 0


def test_too_many_are_told_when_to_come_back(anna: httpx.Client, writer: Writer, hub: Hub) -> None:
    hub.most = 0

    reply = anna.get(f"/api/batches/{writer.batch_id}/changes")

    assert_problem(reply, 429, "too_many_requests")
    assert int(reply.headers["retry-after"]) > 0


def test_who_may_ask(address: str, anna: httpx.Client, writer: Writer, settings: Settings, engine: sa.Engine) -> None:
    path = f"/api/batches/{writer.batch_id}/changes"
    claims = verify_token(settings, issue_token(settings, OWNER))
    ticket, _ = issue_ticket(settings, claims, writer.batch_id)
    others, _ = issue_ticket(settings, claims, make_batch(engine))

    assert_problem(httpx.get(address + path), 401, "unauthenticated")
    assert told(httpx.get(address + path, params={"ticket": ticket}))["version"] == 1
    assert_problem(httpx.get(address + path, params={"ticket": others}), 404, "not_found")
    with client(address, settings, "bert") as bert:
        assert_problem(bert.get(path), 404, "not_found")
    with client(address, settings, scope="write") as anna_writing:
        assert_problem(anna_writing.get(path), 403, "forbidden")
    assert_problem(anna.get(f"/api/batches/{uuid4()}/changes"), 404, "not_found")
    assert_problem(anna.post(path), 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("wait=30.1", ["wait"]),
        ("wait=-1", ["wait"]),
        ("wait=nan", ["wait"]),
        ("wait=inf", ["wait"]),
        ("wait=soon", ["wait"]),
        ("jobs=some", ["jobs"]),
        ("logs=1001", ["logs"]),
        ("logs=-1&wait=31&lastEventId=a", ["logs", "wait", "lastEventId"]),
    ],
)
def test_wrong_parameters_are_named(anna: httpx.Client, writer: Writer, query: str, wrong: list[str]) -> None:
    assert sorted(wrong_paths(anna.get(f"/api/batches/{writer.batch_id}/changes?{query}"))) == sorted(wrong)


def test_head_gets_the_headers_at_once(anna: httpx.Client, writer: Writer, changes: Callable[..., JSON]) -> None:
    path = f"/api/batches/{writer.batch_id}/changes?since={changes()['id']}"
    began = time.monotonic()

    head = anna.head(f"{path}&wait={LONG}")

    assert time.monotonic() - began < LONG / 2
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(anna.get(path).content)


def test_a_whole_batch_followed_by_changes_is_what_the_database_says(
    changes: Callable[..., JSON], hold: Callable[..., Future[httpx.Response]], writer: Writer
) -> None:
    jobs: JSON = {}
    lines: dict[tuple[str, int], JSON] = {}
    said = changes()
    steps: list[Callable[[], int]] = [
        lambda: writer.start(0, 1, 2),
        lambda: writer.progress(0, 20, lines=3),
        lambda: writer.progress(1, 30, lines=2),
        lambda: writer.give_back(1),
        lambda: writer.finish(0, lines=1),
        lambda: writer.finish(2, JobStatus.FAILED),
        writer.cancel,
    ]
    for step in steps:
        jobs |= {job["id"]: job for job in said["jobs"]}
        lines |= {(line["jobId"], line["n"]): line for line in said["lines"]}
        held = hold(said["id"])
        version = step()
        said = told(held.result())
        assert said["version"] == version
    jobs |= {job["id"]: job for job in said["jobs"]}
    truth = writer.state()
    assert said["done"]
    assert (certain(said["batch"]), jobs, lines) == (certain(truth["batch"]), truth["jobs"], truth["lines"])
    assert said["batch"]["status"] == "CANCELLED"
