"""What docs/protocol.md promises of one connection to a stream, over HTTP with a real PostgreSQL and Redis."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from services.stream.app import create_app
from shared import models
from shared.auth import issue_ticket, issue_token, verify_token
from shared.event_ids import EventId, Filters, batch_check, parse_event_id
from shared.jobs import JobStatus
from shared.settings import Settings
from tests.support.batches import OWNER, make_batch
from tests.support.sse import Record, Stream, certain
from tests.support.tls import client_context
from tests.support.ways import WAYS
from tests.support.web import assert_problem, served, wrong_paths
from tests.support.writer import Writer

Open = Callable[..., Stream]


@pytest.fixture
def writer(engine: sa.Engine, settings: Settings) -> Iterator[Writer]:
    writer = Writer(engine, settings, jobs=3)
    yield writer
    writer.close()


@pytest.fixture
def token(settings: Settings) -> str:
    return issue_token(settings, OWNER)


@pytest.fixture(params=WAYS, ids=str)
def address(request: pytest.FixtureRequest, settings: Settings) -> Iterator[str]:
    with request.param.served(settings) as (address, _):
        yield address


@pytest.fixture
def open_stream(address: str, writer: Writer, token: str) -> Iterator[Open]:
    """Opens a stream of the writer's batch; closed at the end."""
    opened: list[Stream] = []

    def open_one(last_id: str = "", **options: Any) -> Stream:
        options = {"token": token, "record": Record(last_id), **options}
        opened.append(Stream(address, options.pop("batch_id", writer.batch_id), **options))
        return opened[-1]

    yield open_one
    for stream in opened:
        stream.close()


def finish_all(writer: Writer) -> int:
    for position in range(3):
        writer.start(position)
    writer.finish(0, lines=1)
    writer.finish(1, JobStatus.FAILED)
    return writer.finish(2)


# -- the beginning ------------------------------------------------------------------------------------------------


def test_the_head_and_the_first_line(open_stream: Open) -> None:
    stream = open_stream()
    stream.delta()

    assert stream.status == 200
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.headers["cache-control"] == "no-cache, no-transform"
    assert stream.headers["x-accel-buffering"] == "no"
    assert stream.parser.retry == [2000]


def test_the_first_delta_is_the_whole_state(open_stream: Open, writer: Writer) -> None:
    writer.start(0, 1)
    writer.progress(0, 30, lines=3)
    stream = open_stream()

    log, progress = stream.delta()

    truth = writer.state()
    assert (log.name, progress.name) == ("log", "progress")
    assert log.data == {
        "batchId": str(writer.batch_id),
        "lines": list(truth["lines"].values())[::-1],
        "truncated": None,
    }
    assert certain(progress.data) == certain(truth["batch"]) | {"jobs": progress.data["jobs"]}
    assert stream.record.jobs == truth["jobs"]


def test_every_change_is_a_delta_with_only_what_changed(open_stream: Open, writer: Writer) -> None:
    stream = open_stream()
    stream.delta()

    writer.start(1)
    (progress,) = stream.delta()
    assert [(job["position"], job["status"]) for job in progress.data["jobs"]] == [(1, "PROCESSING")]
    writer.progress(1, 40, lines=2)
    log, progress = stream.delta()
    assert [line["n"] for line in log.data["lines"]] == [1, 2]
    assert [(job["position"], job["progress"]) for job in progress.data["jobs"]] == [(1, 40)]
    assert stream.record.jobs == writer.state()["jobs"]


def test_head_gets_the_headers_only(open_stream: Open) -> None:
    stream = open_stream(method="HEAD")

    assert stream.status == 200
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.rest() == []


FILTERS: list[tuple[dict[str, Any], list[int], int]] = [
    ({"jobs": "all"}, [0, 1, 2], 5),
    ({"jobs": "changed"}, [1], 5),
    ({"jobs": "none"}, [], 5),
    ({"logs": 2}, [0, 1, 2], 2),
    ({"logs": 0}, [0, 1, 2], 0),
    ({"jobs": "changed", "logs": 1000}, [1], 5),
]


def test_filters(open_stream: Open, writer: Writer) -> None:
    writer.start(1)
    writer.progress(1, lines=5)
    streams = [open_stream(**query) for query, _, _ in FILTERS]

    for stream, (query, positions, lines) in zip(streams, FILTERS, strict=True):
        stream.delta()
        assert sorted(job["position"] for job in stream.record.jobs.values()) == positions, query
        assert [n for _, n in stream.record.lines] == list(range(6 - lines, 6)), query
        assert stream.record.left_out == (0 if lines in {0, 5} else 5 - lines), query
    writer.progress(1, 50, lines=1)
    for stream, (query, positions, lines) in zip(streams, FILTERS, strict=True):
        stream.delta()
        assert len(stream.record.jobs) == len(positions), query
        assert len(stream.record.lines) == (lines + 1 if lines else 0), query


# -- who may ------------------------------------------------------------------------------------------------------


WRONG: list[tuple[dict[str, Any], list[str]]] = [
    ({"jobs": "some"}, ["jobs"]),
    ({"logs": 1001, "jobs": ""}, ["jobs", "logs"]),
    ({"logs": -1}, ["logs"]),
    ({"logs": "many", "colour": "red"}, ["colour", "logs"]),
]


def test_wrong_parameters_are_all_named(address: str, writer: Writer, token: str) -> None:
    for query, paths in WRONG:
        assert sorted(wrong_paths(get(address, writer.batch_id, token, **query))) == paths


def get(address: str, batch_id: UUID | str, token: str | None, accept: str = "*/*", **query: Any) -> httpx.Response:
    headers = {"Accept": accept} | ({"Authorization": f"Bearer {token}"} if token else {})
    url = f"{address}/api/batches/{batch_id}/stream"
    return httpx.get(url, params=query, headers=headers, trust_env=False, verify=client_context())


def test_strangers_are_refused(address: str, writer: Writer, settings: Settings, engine: sa.Engine) -> None:
    others = issue_token(settings, "berta")
    reporter = issue_token(settings, OWNER, scope="report")
    claims = verify_token(settings, issue_token(settings, OWNER))
    other_ticket, _ = issue_ticket(settings, claims, make_batch(engine))

    assert_problem(get(address, writer.batch_id, None), 401, "unauthenticated")
    assert_problem(get(address, writer.batch_id, None, jobs="nonsense"), 401, "unauthenticated")
    assert_problem(get(address, writer.batch_id, None, ticket="nonsense"), 401, "unauthenticated")
    assert_problem(get(address, writer.batch_id, issue_token(settings, OWNER, ttl=-1)), 401, "unauthenticated")
    assert_problem(get(address, writer.batch_id, reporter), 403, "forbidden")
    assert_problem(get(address, writer.batch_id, others), 404, "not_found")
    assert_problem(get(address, writer.batch_id, None, ticket=other_ticket), 404, "not_found")
    assert_problem(get(address, uuid4(), others), 404, "not_found")
    assert_problem(get(address, "nonsense", others), 404, "not_found")


def test_a_watched_batch_is_still_its_owners(open_stream: Open, settings: Settings) -> None:
    open_stream().delta()

    assert open_stream(token=issue_token(settings, "berta")).status == 404


def test_a_ticket_opens_its_batch(open_stream: Open, writer: Writer, settings: Settings) -> None:
    ticket, _ = issue_ticket(settings, verify_token(settings, issue_token(settings, OWNER)), writer.batch_id)
    stream = open_stream(token=None, ticket=ticket)

    stream.delta()

    assert stream.record.jobs == writer.state()["jobs"]


# -- resuming -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_header", [True, False])
def test_resuming_gives_what_came_since(open_stream: Open, writer: Writer, by_header: bool) -> None:
    stream = open_stream()
    stream.delta()
    stream.close()
    writer.start(2)
    version = writer.progress(2, 20, lines=4)

    again = open_stream(record=stream.record) if by_header else open_stream(lastEventId=stream.record.id)
    # in one delta or, where the process has not heard of the second change yet, in two
    news = again.record.news(again.until(lambda _: again.record.version == version))

    assert {event.name for event in news} == {"log", "progress"}
    assert [line["n"] for event in news if event.name == "log" for line in event.data["lines"]] == [1, 2, 3, 4]
    jobs = [job for event in news if event.name == "progress" for job in event.data["jobs"]]
    assert {job["position"] for job in jobs} == {2}
    assert jobs[-1]["progress"] == 20


def test_the_header_comes_before_the_parameter(open_stream: Open, writer: Writer) -> None:
    stream = open_stream()
    stream.delta()
    stream.close()
    writer.start(0)

    again = open_stream(record=stream.record, lastEventId="nonsense")

    assert [event.name for event in again.delta()] == ["progress"]


def test_a_reader_that_is_up_to_date_waits_for_the_next_change(open_stream: Open, writer: Writer) -> None:
    stream = open_stream()
    stream.delta()
    stream.close()

    again = open_stream(record=stream.record)
    version = writer.start(0)
    again.delta()

    assert again.record.version == version


def test_a_topic_that_is_behind_asks_before_it_calls_a_reader_ahead(open_stream: Open, writer: Writer) -> None:
    stream = open_stream()
    stream.delta()
    writer.publish = False
    version = writer.start(0)  # which this process does not hear of; another told the reader
    ahead = replace(event_id(stream.record.id), version=version)

    reader = open_stream(str(ahead))
    stream.delta()
    writer.publish = True
    writer.progress(0, 10)

    assert [event.name for event in reader.delta()] == ["progress"]


def event_id(text: str) -> EventId:
    parsed = parse_event_id(text)
    assert parsed is not None
    return parsed


OTHER = UUID("01890000-0000-7000-8000-000000000001")

RESETS: list[tuple[str, Callable[[EventId], str]]] = [
    ("epoch", lambda event: str(replace(event, epoch="00000000"))),
    ("ahead", lambda event: str(replace(event, version=event.version + 1))),
    ("invalid_id", lambda _: "nonsense"),
    ("invalid_id", lambda _: "x" * 1000),
    ("invalid_id", lambda event: str(replace(event, check=batch_check(OTHER)))),
    ("filters", lambda event: str(replace(event, filters=Filters(jobs="none")))),
    ("filters", lambda event: str(replace(event, filters=Filters(logs=5)))),
]


@pytest.mark.parametrize(("reason", "change"), RESETS, ids=[f"{n}-{reason}" for n, (reason, _) in enumerate(RESETS)])
def test_reset(open_stream: Open, writer: Writer, reason: str, change: Callable[[EventId], str]) -> None:
    writer.start(0)
    stream = open_stream()
    stream.delta()

    again = open_stream(change(event_id(stream.record.id)))
    (reset,) = again.delta()
    nothing_yet = again.record.id
    again.delta()

    assert (reset.name, reset.data) == ("reset", {"reason": reason})
    assert event_id(nothing_yet).version == 0
    assert again.record.jobs == stream.record.jobs
    # cut between the two: a snapshot, and no second reset
    after_cut = open_stream(lastEventId=nothing_yet)
    assert [event.name for event in after_cut.delta()] == ["progress"]
    assert after_cut.record.jobs == stream.record.jobs


# -- log lines ----------------------------------------------------------------------------------------------------


def test_lines_left_out_of_a_long_delta_are_counted_exactly(open_stream: Open, writer: Writer) -> None:
    writer.start(0)
    writer.progress(0, lines=10)
    stream = open_stream()
    stream.delta()
    other = open_stream()
    stream.close()
    for _ in range(5):
        version = writer.progress(0, lines=500)
    other.to_version(version)

    again = open_stream(record=stream.record)
    again.delta()

    assert again.record.left_out == 1500
    assert {n for _, n in again.record.lines} == {*range(1, 11), *range(1511, 2511)}
    logs = [event.data["truncated"] for event in again.record.events if event.name == "log" and event.data["truncated"]]
    assert logs == [{"count": 1500, "logsUrl": f"/api/batches/{writer.batch_id}/logs"}]


def test_a_process_that_never_saw_the_old_lines_counts_them_too(settings: Settings, writer: Writer, token: str) -> None:
    writer.start(0)
    writer.progress(0, lines=10)
    with served(create_app(settings)) as address, Stream(address, writer.batch_id, token) as stream:
        stream.delta()
    for _ in range(3):
        writer.progress(0, lines=700)

    with (
        served(create_app(settings)) as address,
        Stream(address, writer.batch_id, token, record=stream.record) as again,
    ):
        again.delta()

    assert again.record.left_out == 1100
    assert len(again.record.lines) == 1010


def test_the_logs_address_is_absolute_where_the_public_one_is_known(
    settings: Settings, writer: Writer, token: str
) -> None:
    writer.start(0)
    writer.progress(0, lines=2)
    public = replace(settings, public_url="https://headway.example/")

    with served(create_app(public)) as address, Stream(address, writer.batch_id, token, logs=1) as stream:
        log, _ = stream.delta()

    assert log.data["truncated"]["logsUrl"] == f"https://headway.example/api/batches/{writer.batch_id}/logs"


# -- the end ------------------------------------------------------------------------------------------------------


def test_the_end_of_a_batch_ends_the_stream(open_stream: Open, writer: Writer) -> None:
    stream = open_stream()
    stream.delta()

    version = finish_all(writer)
    events = stream.rest()

    assert [event.name for event in events if event.id][-1] == "complete"
    assert "log" in [event.name for event in events]
    complete = stream.record.events[-1]
    truth = writer.state()
    assert complete.data == truth["batch"] | {"jobs": complete.data["jobs"]}
    assert truth["jobs"][str(writer.jobs[2])] in complete.data["jobs"]
    assert (complete.data["status"], complete.data["summary"]) == ("PARTIAL", {"jobs": 2, "steps": 2})
    assert stream.record.version == version
    assert stream.record.jobs == truth["jobs"]


def test_the_snapshot_of_a_finished_batch(open_stream: Open, writer: Writer) -> None:
    finish_all(writer)
    stream = open_stream()

    log, progress, complete = stream.rest()

    assert (log.name, progress.name, complete.name) == ("log", "progress", "complete")
    assert progress.id is None
    assert progress.data == complete.data
    assert stream.record.jobs == writer.state()["jobs"]


def test_resuming_a_finished_batch_in_the_middle_gives_the_rest(open_stream: Open, writer: Writer) -> None:
    writer.start(0)
    stream = open_stream()
    stream.delta()
    stream.close()
    finish_all(writer)

    again = open_stream(record=stream.record)
    again.rest()

    assert again.record.events[-1].name == "complete"
    assert again.record.jobs == writer.state()["jobs"]


def test_a_reader_that_has_everything_is_told_204(open_stream: Open, writer: Writer) -> None:
    finish_all(writer)
    stream = open_stream()
    stream.rest()

    again = open_stream(record=stream.record)

    assert again.status == 204
    assert again.body() == b""


def test_nobody_is_told_204_by_a_topic_that_is_behind(open_stream: Open, writer: Writer, engine: sa.Engine) -> None:
    finish_all(writer)
    stream = open_stream()
    stream.rest()
    # opened again, as a retry will do it; this process does not hear of it
    with engine.begin() as connection:
        reopen = sa.update(models.batches).where(models.batches.c.id == writer.batch_id)
        connection.execute(reopen.values(status="PROCESSING", version=models.batches.c.version + 1, finished_at=None))

    again = open_stream(record=stream.record)

    assert again.status == 200
    assert [event.data["status"] for event in again.delta()] == ["PROCESSING"]


def test_a_deleted_batch_ends_its_streams(settings: Settings, writer: Writer, token: str) -> None:
    with served(create_app(replace(settings, version_check=0.1))) as address:
        with Stream(address, writer.batch_id, token) as stream:
            stream.delta()
            writer.delete()
            (error,) = stream.rest()
        with Stream(address, writer.batch_id, token) as again:
            assert again.status == 404

    assert (error.name, error.data["code"], error.data["retryable"]) == ("error", "deleted", False)


# -- time ---------------------------------------------------------------------------------------------------------


@contextmanager
def watching(settings: Settings, writer: Writer, token: str | None, **query: Any) -> Iterator[Stream]:
    with served(create_app(settings)) as address, Stream(address, writer.batch_id, token, **query) as stream:
        stream.delta()
        yield stream


def test_silence_is_broken_by_pings(settings: Settings, writer: Writer, token: str) -> None:
    with watching(replace(settings, heartbeat=0.2), writer, token) as stream:
        pings = [stream.next() for _ in range(3)]

    assert [ping.name for ping in pings] == ["ping"] * 3
    times = [ping.data["timestamp"] for ping in pings]
    assert all(180 <= later - earlier < 3000 for earlier, later in pairwise(times))
    assert abs(times[-1] - time.time() * 1000) < 2000


def test_a_stream_has_a_lifetime(settings: Settings, writer: Writer, token: str) -> None:
    started = time.monotonic()
    with watching(replace(settings, lifetime=0.5), writer, token) as stream:
        (timeout,) = stream.rest()

    assert timeout.name == "timeout"
    assert timeout.data == {"reason": "lifetime"}
    assert time.monotonic() - started >= 0.4


def test_a_stream_ends_with_its_token(settings: Settings, writer: Writer) -> None:
    with watching(settings, writer, issue_token(settings, OWNER, ttl=4)) as stream:
        (timeout,) = stream.rest()

    assert timeout.data == {"reason": "token_expired"}


def test_a_ticket_is_looked_at_only_in_the_beginning(settings: Settings, writer: Writer) -> None:
    ticket, _ = issue_ticket(settings, verify_token(settings, issue_token(settings, OWNER, ttl=4)), writer.batch_id)

    with watching(replace(settings, heartbeat=0.2), writer, None, ticket=ticket) as stream:
        until = time.time() + 4.2
        while time.time() < until:
            assert stream.next().name == "ping"


# -- refusals -----------------------------------------------------------------------------------------------------


def test_too_many_connections(settings: Settings, writer: Writer, token: str) -> None:
    with (
        served(create_app(replace(settings, viewers=1))) as address,
        Stream(address, writer.batch_id, token) as stream,
    ):
        stream.delta()
        with Stream(address, writer.batch_id, token) as refused:
            (error,) = refused.rest()
        reply = get(address, writer.batch_id, token, accept="application/json")

    assert refused.status == 200
    assert refused.parser.retry[0] >= 2000
    assert (error.data["code"], error.data["retryable"]) == ("too_many_connections", True)
    assert_problem(reply, 429, "too_many_requests")
    assert int(reply.headers["retry-after"]) > 0
