"""Topics and viewers without a network: what is shared, what is skipped, and what a slow viewer gets."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from services.stream.advance import Advance, Part, job_part, line_part
from services.stream.delivery import Position
from services.stream.frames import CHUNK, error_event
from services.stream.pacer import Pacer
from services.stream.tail import BYTES_MAX, Tail
from services.stream.topic import SNAPSHOTS, Topic
from services.stream.viewer import Viewer
from shared.event_ids import LOGS_MAX, Filters
from shared.events import Batch, Job, Line
from shared.jobs import BatchStatus, Counts, JobStatus
from tests.support.sse import Event, Parser, Record
from tests.support.watchers import pulled

BATCH = UUID("01890000-0000-7000-8000-000000000001")
AT = "2026-11-01T12:00:00.000Z"


def batch(version: int, status: BatchStatus = BatchStatus.PROCESSING) -> Batch:
    return Batch(
        str(BATCH), "rehearsal", "", "anna", status, version, 0, Counts(), None, None, False, {}, None, AT, AT, None
    )


def job(number: int, progress: int = 0, *, name: str = "") -> Job:
    return Job(
        f"job-{number}", number, name, JobStatus.PROCESSING, progress, None, None, None, 1, False, None, None, AT, None
    )


def line(n: int, text: str = "") -> Line:
    return Line("job-0", 1, n, AT, "info", text)


class Writer:
    """Keeps the numbers: each call is the next version."""

    def __init__(self, jobs: int = 1, **filled: Any) -> None:
        self.topic = Topic(BATCH, "/logs")
        self.version = 1
        self.lines = 0
        self.topic.load(Advance("0badcafe", 0, batch(1), [job_part(1, job(n, **filled)) for n in range(jobs)], [], 0))

    def change(self, *jobs: Job, lines: int = 0, status: BatchStatus = BatchStatus.PROCESSING) -> None:
        self.version += 1
        fresh = [line_part(self.version, line(self.lines + n + 1)) for n in range(lines)]
        self.lines += lines
        parts = [job_part(self.version, job) for job in jobs]
        self.topic.apply(Advance("0badcafe", self.version - 1, batch(self.version, status), parts, fresh, self.lines))


def watch(topic: Topic, filters: Filters | None = None, start: Any = None) -> Viewer:
    viewer = Viewer(topic, filters or Filters())
    viewer.begin(start or Position())
    topic.viewers.add(viewer)
    return viewer


def seen(viewer: Viewer, record: Record | None = None) -> list[Event]:
    parser, record = Parser(), record or Record()
    events = [event for chunk in pulled(viewer) for event in parser.feed(chunk)]
    for event in events:
        record.take(event)
    return events


def test_two_viewers_get_the_same_bytes_object() -> None:
    writer = Writer()
    one, other = watch(writer.topic), watch(writer.topic)

    assert [id(chunk) for chunk in pulled(one)] == [id(chunk) for chunk in pulled(other)]
    writer.change(job(0, 10))
    assert [id(chunk) for chunk in pulled(one)] == [id(chunk) for chunk in pulled(other)]


def test_a_viewer_that_did_not_pull_gets_one_merged_delta() -> None:
    writer = Writer(jobs=3)
    viewer, record = watch(writer.topic), Record()
    seen(viewer, record)

    for percent in range(1, 50):
        writer.change(job(0, percent), lines=1)
    writer.change(job(2, 7))
    log, progress = seen(viewer, record)

    assert len(log.data["lines"]) == 49
    assert [(job["id"], job["progress"]) for job in progress.data["jobs"]] == [("job-0", 49), ("job-2", 7)]
    assert record.version == 51
    assert viewer.pull() is None


def test_filters_choose_jobs() -> None:
    writer = Writer(jobs=3)
    writer.change(job(1, 10))
    wanted = {"all": 3, "changed": 1, "none": 0}

    for filters, jobs in ((Filters(jobs=name), count) for name, count in wanted.items()):  # type: ignore[arg-type]
        (snapshot,) = seen(watch(writer.topic, filters))
        assert len(snapshot.data["jobs"]) == jobs
    (delta,) = seen(watch(writer.topic, Filters(jobs="changed"), Position(1)))
    assert [job["id"] for job in delta.data["jobs"]] == ["job-1"]


@pytest.mark.parametrize(("logs", "left_out"), [(1000, 0), (3, 7), (10, 0), (9, 1)])
def test_the_last_lines_come_first_and_the_others_are_counted(logs: int, left_out: int) -> None:
    writer = Writer()
    writer.change(lines=4)
    writer.change(lines=6)

    log, _ = seen(watch(writer.topic, Filters(logs=logs)))

    assert [line["n"] for line in log.data["lines"]] == list(range(left_out + 1, 11))
    assert log.data["truncated"] == ({"count": left_out, "logsUrl": "/logs"} if left_out else None)


def test_who_wants_no_lines_never_gets_any() -> None:
    writer = Writer()
    writer.change(lines=4)
    viewer = watch(writer.topic, Filters(logs=0))

    assert [event.name for event in seen(viewer)] == ["progress"]
    writer.change(lines=LOGS_MAX + 1)
    assert [event.name for event in seen(viewer)] == ["progress"]


def test_a_delta_with_too_many_lines_says_exactly_how_many_are_missing() -> None:
    writer = Writer()
    writer.change(lines=5)
    viewer, record = watch(writer.topic), Record()
    seen(viewer, record)

    for _ in range(30):
        writer.change(lines=100)
    seen(viewer, record)

    assert record.left_out == 2_000
    assert {n for _, n in record.lines} == {*range(1, 6), *range(2_006, 3_006)}


def test_a_change_in_the_middle_of_a_snapshot_comes_after_it() -> None:
    writer = Writer(jobs=1000, name="x" * 200)
    viewer, record, parser = watch(writer.topic), Record(), Parser()

    first = viewer.pull()
    assert first is not None
    assert not viewer.between
    writer.change(job(0, 33))
    for chunk in [first, *pulled(viewer)]:
        assert len(chunk) <= CHUNK
        for event in parser.feed(chunk):
            record.take(event)

    assert len(record.jobs) == 1000
    assert record.jobs["job-0"]["progress"] == 33
    assert [event.id for event in record.events if event.id] == [
        writer.topic.event_id(1, Filters()),
        writer.topic.event_id(2, Filters()),
    ]


def test_slow_readers_keep_few_snapshots_alive() -> None:
    writer = Writer(jobs=1000, name="x" * 200)
    slow = []
    for progress in range(10):
        viewer = watch(writer.topic)
        first = viewer.pull()
        assert first is not None
        slow.append((viewer, first))
        writer.change(job(0, progress))

    assert len({id(viewer._delivery) for viewer, _ in slow}) == SNAPSHOTS
    for viewer, first in slow:
        parser, record = Parser(), Record()
        for chunk in [first, *pulled(viewer)]:
            for event in parser.feed(chunk):
                record.take(event)
        assert record.jobs["job-0"]["progress"] == 9
        assert len(record.jobs) == 1000


def test_the_last_delta_ends_the_viewer() -> None:
    writer = Writer()
    viewer = watch(writer.topic)
    seen(viewer)

    writer.change(job(0, 100), lines=1, status=BatchStatus.COMPLETED)

    assert [event.name for event in seen(viewer)] == ["log", "complete"]
    assert viewer.over
    assert viewer.pull() is None


def test_a_new_epoch_is_told_by_reset_and_a_snapshot() -> None:
    writer = Writer(jobs=2)
    writer.change(lines=3)
    viewer, record = watch(writer.topic), Record()
    seen(viewer, record)

    writer.topic.load(Advance("1badcafe", 0, batch(2), [job_part(1, job(0)), job_part(1, job(1))], [], 0))
    reset, snapshot = seen(viewer, record)

    assert (reset.name, reset.data) == ("reset", {"reason": "epoch"})
    assert len(snapshot.data["jobs"]) == 2
    assert not record.lines


def test_a_farewell_waits_for_what_is_being_sent() -> None:
    writer = Writer(jobs=1000, name="x" * 200)
    viewer = watch(writer.topic)
    first = viewer.pull()
    assert first is not None
    viewer.dismiss("draining", error_event("draining", "", retryable=True))
    parser, record = Parser(), Record()

    for chunk in [first, *pulled(viewer)]:
        for event in parser.feed(chunk):
            record.take(event)

    assert record.version == 1
    assert [event.name for event in record.events[-2:]] == ["progress", "error"]
    assert viewer.over


def test_an_answer_that_repeats_what_is_known_adds_only_what_is_new() -> None:
    writer = Writer(jobs=2)
    for _ in range(3):
        writer.change(job(0, 1), lines=2)
    repeated = [line_part(1 + (n + 1) // 2, line(n)) for n in range(1, 9)]

    writer.topic.apply(Advance("0badcafe", 1, batch(5), [job_part(4, job(0, 1)), job_part(5, job(1, 5))], repeated, 8))

    record = Record()
    seen(watch(writer.topic), record)
    assert [n for _, n in record.lines] == list(range(1, 9))
    assert record.jobs["job-1"]["progress"] == 5
    (_, delta) = seen(watch(writer.topic, start=Position(4, 6)))
    assert [job["id"] for job in delta.data["jobs"]] == ["job-1"]


def test_an_older_answer_changes_nothing() -> None:
    writer = Writer()
    writer.change(job(0, 50), lines=1)
    before = pulled(watch(writer.topic))

    writer.topic.apply(Advance("0badcafe", 0, batch(1), [job_part(1, job(0))], [], 0))

    assert pulled(watch(writer.topic)) == before


def tail_of(*versions: int) -> Tail:
    tail = Tail()
    for count, version in enumerate(versions, start=1):
        tail.extend([Part(version, "job", b"x")], count)
    return tail


def test_the_tail_knows_how_many_lines_there_were() -> None:
    tail = tail_of(2, 2, 3, 7)

    assert [tail.count_at(version) for version in (1, 2, 3, 6, 7, 9)] == [0, 2, 3, 3, 4, 4]


def test_the_tail_does_not_know_what_was_before_it() -> None:
    tail = Tail()
    tail.extend([Part(version, "job", b"x") for version in (5, 6)], 10)

    assert [tail.count_at(version) for version in (3, 4, 5, 6)] == [None, None, 9, 10]


def test_the_tail_drops_what_does_not_join_on() -> None:
    tail = tail_of(2, 3)

    tail.extend([Part(9, "job", b"y")], 10)

    assert tail.last(5) == [b"y"]
    assert tail.count_at(3) is None


def test_the_tail_is_bounded_in_bytes_but_keeps_one_line() -> None:
    tail = Tail()
    tail.extend([Part(2, "job", b"x" * (BYTES_MAX // 4)) for _ in range(10)], 10)
    assert len(tail.last(10)) == 4

    tail.extend([Part(3, "job", b"y" * BYTES_MAX * 2)], 11)
    assert tail.last(10) == [b"y" * BYTES_MAX * 2]


async def test_changes_close_together_leave_together() -> None:
    loop, delivered = asyncio.get_running_loop(), asyncio.Queue[float]()
    pacer = Pacer(0.05, lambda: delivered.put_nowait(loop.time()))

    pacer.touch()
    first = delivered.get_nowait()
    for _ in range(10):
        pacer.touch()
    assert delivered.empty()
    second = await delivered.get()

    assert second - first >= 0.05
    assert delivered.empty()


async def test_what_is_urgent_does_not_wait() -> None:
    delivered: list[int] = []
    pacer = Pacer(60, lambda: delivered.append(1))

    pacer.touch()
    pacer.touch()
    pacer.touch(urgent=True)

    assert len(delivered) == 2
    assert pacer._timer is None
