"""The checker of histories can fail: an honest recording passes, and each way to falsify it is found."""

import copy
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from shared.event_ids import EventId, Filters
from tests.support.feed_viewers import check_feed
from tests.support.history import Connection, History, Past, Recording, State, Step, check_recording
from tests.support.socket_viewers import check_log
from tests.support.sse import JSON, Event

BATCH = UUID(int=1)
EPOCH = "0123abcd"
LATER = "4567cdef"
FINAL = 6
ALL = Filters()


def job(position: int, status: str, progress: int, attempt: int = 1) -> JSON:
    return {"id": f"job {position}", "position": position, "status": status, "progress": progress, "attempt": attempt}


def line(position: int, n: int) -> JSON:
    return {"jobId": f"job {position}", "attempt": 1, "n": n, "at": "now", "level": "info", "text": f"line {n}"}


def states() -> list[State]:
    """Two jobs: one after the other begins, gets on, says something, and completes."""
    waits = job(1, "QUEUED", 0, 0)
    lives = [
        ({}, [job(0, "QUEUED", 0, 0), waits], []),
        ({"job 0": 2}, [job(0, "PROCESSING", 0), waits], []),
        ({"job 0": 3}, [job(0, "PROCESSING", 40), waits], [line(0, 1), line(0, 2)]),
        ({"job 0": 3, "job 1": 4}, [job(0, "PROCESSING", 40), job(1, "PROCESSING", 0)], []),
        ({"job 0": 5, "job 1": 4}, [job(0, "COMPLETED", 100), job(1, "PROCESSING", 0)], [line(0, 3), line(1, 1)]),
        ({"job 0": 5, "job 1": 6}, [job(0, "COMPLETED", 100), job(1, "COMPLETED", 100)], [line(1, 2)]),
    ]
    found, stored = [], 0
    for version, (touched, jobs, fresh) in enumerate(lives, start=1):
        stored += len(fresh)
        statuses = [each["status"] for each in jobs]
        found.append(
            State(
                epoch=EPOCH,
                version=version,
                batch={
                    "version": version,
                    "status": "COMPLETED" if version == FINAL else "PROCESSING",
                    "progress": sum(each["progress"] for each in jobs) // 2,
                    "counts": {
                        "queued": statuses.count("QUEUED"),
                        "processing": statuses.count("PROCESSING"),
                        "completed": statuses.count("COMPLETED"),
                        "failed": 0,
                        "cancelled": 0,
                        "total": 2,
                    },
                    "finishedAt": "now" if version == FINAL else None,
                    "open": False,
                    "cancelRequested": False,
                },
                jobs={each["id"]: each for each in jobs},
                touched={"job 0": 1, "job 1": 1} | touched,
                results=frozenset(each["id"] for each in jobs if each["status"] == "COMPLETED"),
                fresh=fresh,
                line_count=stored,
            )
        )
    return found


STEPS = {
    f"job {position}": [Step("QUEUED", "PROCESSING", 1), Step("PROCESSING", "COMPLETED", 1)] for position in range(2)
}


def history(past: list[State] | None = None) -> History:
    return History(None, BATCH, [Past(past or states(), steps=copy.deepcopy(STEPS))])


def event_id(version: int, filters: Filters, epoch: str = EPOCH) -> str:
    return str(EventId(epoch, "0000", version, filters))


def delta(since: int, to: int, filters: Filters = ALL, epoch: str = EPOCH) -> list[Event]:
    """What an honest server tells somebody who is at `since`."""
    past = states()
    now = past[to - 1]
    least = {"all": 0, "changed": 1, "none": FINAL}[filters.jobs]
    jobs = [each for key, each in now.jobs.items() if now.touched[key] > max(since, least)]
    lines = [each for state in past[since:to] for each in state.fresh]
    events = []
    if filters.logs and lines:
        left_out = 0 if since else max(0, len(lines) - filters.logs)
        truncated = {"count": left_out, "logsUrl": "/logs"} if left_out else None
        events.append(Event("log", {"batchId": "1", "lines": lines[left_out:], "truncated": truncated}))
    name = "complete" if now.final else "progress"
    if name == "complete" and not since:
        events.append(Event("progress", {**now.batch, "jobs": jobs}))
    return [*events, Event(name, {**now.batch, "jobs": jobs}, event_id(to, filters, epoch))]


def recording(filters: Filters = ALL) -> Recording:
    """Of one who was cut off once, in the middle of what came, and in the end was told that there is no more."""
    first = [*delta(0, 2, filters), Event("ping", {"timestamp": 1}), *delta(2, 4, filters), *delta(4, 5, filters)[:1]]
    if first[-1].id is not None:
        first.pop()  # it would have been the whole
    return Recording(
        "somebody",
        filters,
        [
            Connection("", 200, copy.deepcopy(first)),
            Connection(event_id(4, filters), 0),
            Connection(event_id(4, filters), 200, delta(4, 5, filters) + delta(5, 6, filters)),
            Connection(event_id(6, filters), 204),
        ],
    )


@pytest.mark.parametrize("filters", [ALL, Filters("changed", 1), Filters("changed", 0), Filters("none", 2)], ids=str)
def test_an_honest_recording_passes(filters: Filters) -> None:
    truth = history()
    truth.check()
    check_recording(recording(filters), truth)


def of_last(change: Callable[[list[Event]], Any]) -> Callable[[Recording], None]:
    """Falsify the connection over which versions 5 and 6 came: log, progress, log, complete."""

    def falsify(doctored: Recording) -> None:
        change(doctored.connections[2].events)

    return falsify


def of_job(**wrong: Any) -> Callable[[list[Event]], None]:
    def falsify(events: list[Event]) -> None:
        events[1].data["jobs"][0] |= wrong

    return falsify


def stale_snapshot(doctored: Recording) -> None:
    """The jobs of version 4 under the id of 5."""
    events = doctored.connections[2].events
    events[1].data["jobs"] = [states()[3].jobs["job 0"]]


def snapshot_again(doctored: Recording) -> None:
    """Somebody who has version 4 is told everything from the beginning."""
    doctored.connections[2].events[1].data["jobs"] = list(states()[4].jobs.values())


def repeated_lines(doctored: Recording) -> None:
    """One of version 3, which it has."""
    doctored.connections[2].events[0].data["lines"].insert(0, line(0, 2))


def unfinished(doctored: Recording) -> None:
    doctored.connections[2].events = delta(4, 5)
    doctored.connections[3].last_id = event_id(5, ALL)


def other_epoch(doctored: Recording) -> None:
    doctored.connections[0].events[:1] = delta(0, 2, epoch=LATER)


@pytest.mark.parametrize(
    ("falsify", "message"),
    [
        (of_last(lambda events: events.extend(delta(5, 6))), "twice"),
        (of_last(lambda events: events.extend(delta(5, 6)[1:])), "strictly"),
        (of_last(lambda events: events.__delitem__(slice(2))), "the jobs"),
        (of_last(lambda events: events.pop(0)), "log lines"),
        (unfinished, "never came to the end"),
        (of_last(of_job(status="FAILED")), "the jobs"),
        (of_last(of_job(progress=41)), "the jobs"),
        (of_last(lambda events: events[0].data["lines"][0].update(text="other")), "log lines"),
        (of_last(lambda events: events[0].data["lines"].append(line(0, 4))), "log lines"),
        (of_last(lambda events: events[1].data.update(progress=99)), "the batch"),
        (of_last(lambda events: events[3].data.update(summary={})), "the batch"),
        (of_last(lambda events: setattr(events[3], "name", "progress")), "progress"),
        (of_last(lambda events: setattr(events[1], "name", "complete")), "complete"),
        (of_last(lambda events: setattr(events[1], "id", event_id(7, ALL))), "different versions"),
        (
            of_last(lambda events: events.insert(0, Event("reset", {"reason": "ahead"}, event_id(0, Filters())))),
            "forget",
        ),
        (of_last(lambda events: events.append(Event("error", {"code": "internal"}))), "internal"),
        (stale_snapshot, "the jobs"),
        (snapshot_again, "told of 2 jobs, 1 have changed"),
        (repeated_lines, "twice"),
        (other_epoch, "never was at version 2 of epoch 4567cdef"),
        (lambda doctored: doctored.connections.pop(), "no more"),
        (lambda doctored: setattr(doctored.connections[1], "status", 503), "503 ends an EventSource"),
        (lambda doctored: setattr(doctored.connections[2], "last_id", event_id(3, ALL)), "another id"),
        (lambda doctored: setattr(doctored, "failure", "something"), "something"),
    ],
)
def test_a_falsified_recording_is_found(falsify: Callable[[Recording], Any], message: str) -> None:
    doctored = recording()
    falsify(doctored)
    with pytest.raises(AssertionError, match=message):
        check_recording(doctored, history())


def log_recording() -> Recording:
    """Of the topic `logs:` over a WebSocket: it is cut off after version 3, and goes on."""
    past = states()

    def told(since: int, to: int) -> Event:
        lines = [each for state in past[since:to] for each in state.fresh]
        return Event("log", {"batchId": "1", "lines": lines, "truncated": None}, event_id(to, ALL))

    end = [told(5, 6), Event("complete", {**past[5].batch, "jobs": []}, event_id(6, ALL))]
    end[0].id = None
    return Recording(
        "somebody",
        ALL,
        [Connection("", 200, [told(0, 2), told(2, 3)]), Connection(event_id(3, ALL), 200, [told(3, 5), *end])],
    )


def of_lines(change: Callable[[list[JSON]], Any]) -> Callable[[Recording], None]:
    """Falsify those of version 5."""
    return lambda doctored: change(doctored.connections[1].events[0].data["lines"])


@pytest.mark.parametrize(
    ("falsify", "message"),
    [
        (of_lines(lambda lines: lines.pop()), "log lines are missing"),
        (of_lines(lambda lines: lines.append(line(1, 2))), "a line that was not there"),
        (of_lines(lambda lines: lines[0].update(text="other")), "a line that was not there"),
        (of_lines(lambda lines: lines.append(lines[0])), "twice"),
        (lambda doctored: doctored.connections[1].events.pop(), "never came to the end"),
        (lambda doctored: setattr(doctored.connections[1], "last_id", event_id(2, ALL)), "another id"),
        (lambda doctored: doctored.connections[1].events.insert(0, Event("error", {"code": "internal"})), "internal"),
        (lambda doctored: setattr(doctored, "failure", "something"), "something"),
    ],
)
def test_a_falsified_log_is_found(falsify: Callable[[Recording], Any], message: str) -> None:
    doctored = log_recording()
    check_log(doctored, history())
    falsify(doctored)
    with pytest.raises(AssertionError, match=message):
        check_log(doctored, history())


def feed_recording() -> Recording:
    """Of the owner's feed: cut off after version 4, and shown everything again."""

    def batch(version: int) -> JSON:
        return copy.deepcopy(states()[version - 1].batch) | {"batchId": str(BATCH)}

    def snapshot(version: int) -> Event:
        return Event("batches", {"items": [{"batchId": "another"}, batch(version)]})

    first = [snapshot(2), Event("batch", {"batchId": "another", "deleted": True}), Event("batch", batch(4))]
    return Recording(
        "somebody", ALL, [Connection("", 200, first), Connection("", 200, [snapshot(4), Event("batch", batch(6))])]
    )


def feed_history() -> History:
    past = [State(**_fields(state) | {"batch": state.batch | {"batchId": str(BATCH)}}) for state in states()]
    return History(None, BATCH, [Past(past)])


def last_of_feed(**wrong: Any) -> Callable[[Recording], None]:
    return lambda doctored: doctored.connections[1].events[1].data.update(wrong)


@pytest.mark.parametrize(
    ("falsify", "message"),
    [
        (last_of_feed(progress=99), "never was so"),
        (last_of_feed(**states()[2].batch), "it had version 4"),
        (lambda doctored: doctored.connections[1].events[0].data["items"][1].update(states()[1].batch), "taken back"),
        (lambda doctored: doctored.connections[1].events.pop(0), "everything first"),
        (lambda doctored: doctored.connections[1].events.pop(), "never came to the end"),
        (lambda doctored: setattr(doctored.connections[1].events[1], "id", "1"), "no ids"),
        (lambda doctored: setattr(doctored, "failure", "something"), "something"),
    ],
)
def test_a_falsified_feed_is_found(falsify: Callable[[Recording], Any], message: str) -> None:
    doctored = feed_recording()
    check_feed(doctored, str(BATCH), feed_history())
    falsify(doctored)
    with pytest.raises(AssertionError, match=message):
        check_feed(doctored, str(BATCH), feed_history())


def test_lines_are_left_out_only_where_they_may_be() -> None:
    greedy = Filters("all", 1)
    doctored = recording(greedy)
    doctored.connections = [Connection("", 200, delta(0, 6, greedy)), doctored.connections[-1]]
    check_recording(doctored, history())
    doctored.connections[0].events[0].data["lines"] = [line(0, 3)]  # not the newest
    with pytest.raises(AssertionError, match="the newest log lines"):
        check_recording(doctored, history())


def test_an_epoch_may_begin_while_nothing_changes() -> None:
    past = history().pasts[0].states
    truth = History(None, BATCH, [Past(past[:4]), Past(past[:3], LATER)])  # taken back from version 4 to 3
    seen = Recording("somebody", ALL, [Connection("", 200, delta(0, 4))])
    seen.connections[0].events += [Event("reset", {"reason": "epoch"}, event_id(0, ALL, LATER))]
    seen.connections[0].events += delta(0, 3, epoch=LATER)
    check_recording(seen, truth, finished=False, resets={"epoch"})
    with pytest.raises(AssertionError, match="forget"):
        check_recording(seen, truth, finished=False)
    seen.connections[0].events[-1].id = event_id(2, ALL, LATER)
    with pytest.raises(AssertionError):
        check_recording(seen, truth, finished=False, resets={"epoch"})


def changed(version: int, **fields: Any) -> Callable[[History], None]:
    def falsify(truth: History) -> None:
        old = truth.pasts[0].states
        past = [State(**_fields(state) | (fields if state.version == version else {})) for state in old]
        truth.pasts = [Past(past, steps=truth.pasts[0].steps)]

    return falsify


def _fields(state: State) -> dict[str, Any]:
    return {name: getattr(state, name) for name in State.__struct_fields__}


def with_job(version: int, *values: Any) -> Callable[[History], None]:
    state, new = states()[version - 1], job(*values)
    return changed(version, jobs=state.jobs | {new["id"]: new}, touched=state.touched | {new["id"]: version})


def without_version(truth: History) -> None:
    truth.pasts = [Past([state for state in states() if state.version != 3])]


def twice(truth: History) -> None:
    """A job that had completed is run again."""
    past = states()
    again = State(**_fields(past[3]) | {"version": 6, "touched": {"job 0": 6, "job 1": 4}, "fresh": []})
    truth.pasts = [Past([*past[:5], again])]


@pytest.mark.parametrize(
    ("falsify", "message"),
    [
        (without_version, "versions"),
        (twice, "COMPLETED to PROCESSING"),
        (changed(4, line_count=3), "lines came or went"),
        (changed(5, fresh=[line(0, 3), line(1, 2)]), "gap"),
        (changed(5, fresh=[line(0, 3), line(1, 1) | {"attempt": 2}]), "late line"),
        (changed(2, fresh=[line(0, 1), line(0, 2)], line_count=2), "did not run"),
        (changed(3, touched={"job 0": 2, "job 1": 1}), "nobody will know"),
        (changed(3, touched={"job 0": 3, "job 1": 2}), "job 1 at version 3"),
        (changed(5, results=frozenset()), "version 5"),
        (changed(5, batch=states()[3].batch), "version 5"),
        (with_job(4, 0, "PROCESSING", 30), "its progress fell"),
        (with_job(4, 0, "PROCESSING", 50, 2), "job 0 at version 4"),
        (with_job(4, 0, "PROCESSING", 50), "version 4"),
        (with_job(2, 0, "COMPLETED", 100), "QUEUED to COMPLETED"),
        (with_job(6, 0, "COMPLETED", 99), "had ended|progress fell"),
        (with_job(4, 2, "QUEUED", 0, 0), "jobs that came later"),
        (changed(3, batch=states()[2].batch | {"open": True}), "closed before"),
        (changed(6, batch=states()[5].batch | {"open": True}), "closed before"),
        (lambda truth: truth.pasts[0].steps["job 0"].pop(), "transitions"),
        (lambda truth: truth.pasts[0].steps["job 0"].extend(STEPS["job 0"]), "transitions"),
    ],
)
def test_an_impossible_history_is_found(falsify: Callable[[History], Any], message: str) -> None:
    truth = history()
    falsify(truth)
    with pytest.raises(AssertionError, match=message):
        truth.check()
