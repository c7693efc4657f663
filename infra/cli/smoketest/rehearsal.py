"""What `headway smoke` checks: the protocol as docs/protocol.md has it, on one rehearsal that runs while we look."""

from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from infra.cli.api import Api
from infra.cli.reading import Reading
from infra.cli.smoketest.checks import Checks, expect, same
from infra.cli.smoketest.control import check_control
from infra.cli.smoketest.conversation import check_conversation
from infra.cli.smoketest.events import check_lines, check_monotone, check_order, check_snapshot
from infra.cli.smoketest.feed import check_feed
from infra.cli.smoketest.persistence import persistent
from infra.cli.smoketest.recording import Recording, record
from infra.cli.smoketest.refusals import check_refusals
from infra.cli.smoketest.reports import check_reports
from infra.cli.smoketest.waiting import Timing, check_waiting
from infra.cli.sse import Event

Json = dict[str, Any]

_STEP, _LONG_STEP = 80, 1000
"""Milliseconds. Where parts are to be killed meanwhile, who does it needs time."""
_JOBS = 6
_CUT_AT = 30
"""Percent at which the first connection is given up."""


def check_all(checks: Checks, api: Api, other_token: str | None, timing: Timing, *, wait: bool) -> None:
    batch: Json = {}
    with checks.check("a rehearsal of 6 jobs is accepted"):
        batch = _create(api)
        same(batch["counts"]["total"], _JOBS, "counts.total")
        same(batch["version"], 1, "version")
    if not batch:
        return
    path = f"/api/batches/{batch['batchId']}/stream"
    if recordings := _check_live(checks, api, path, timing):
        first, second = recordings
        whole = Recording(first.status, first.headers, first.beginning, first.events + second.events, second.ended)
        with checks.check("the first snapshot holds the batch and all jobs, under an id"):
            check_snapshot(first, batch["batchId"], _JOBS)
        with checks.check("events come as log, progress, complete, and only the last of a delta carries an id, once"):
            check_order(whole)
        with checks.check("versions and progress rise, and counters add up"):
            check_monotone(whole)
        with checks.check("log lines have neither gap nor double across the cut"):
            check_lines(whole, _JOBS)
        _check_later(checks, api, batch, first, whole)
    check_refusals(checks, api, batch, other_token)
    check_control(checks, api, timing.patience)
    check_reports(checks, api, timing.patience)
    check_feed(checks, api, timing.patience)
    if wait:
        check_waiting(checks, api, timing)


def _create(api: Api) -> Json:
    disturbed = persistent(api) is not None
    ordinary = {"steps": 10, "stepMs": _LONG_STEP if disturbed else _STEP, "logsPerStep": 1}
    once = {"steps": 5, "failAtStep": 2, "failAttempts": 1, "failure": "retryable"}
    jobs = [
        *({"name": f"ordinary {number}", "params": ordinary} for number in range(1, 5)),
        {"name": "fails", "params": ordinary | {"failAtStep": 3}},
        {"name": "tries again", "params": ordinary | once},
    ]
    submission = {"kind": "rehearsal", "title": "smoke test", "jobs": jobs}
    return api.create_batch(submission, key=str(uuid4()) if disturbed else None)


def _check_live(checks: Checks, api: Api, path: str, timing: Timing) -> tuple[Recording, Recording] | None:
    """Two connections, one after the other, while the batch runs."""
    first = None
    with checks.check("its stream opens with a retry line and the headers that proxies need"):
        first = record(api, path, until=_at(_CUT_AT), seconds=timing.patience)
        _check_head(first)
    if first is None:
        return None
    with checks.check("a connection that was cut is taken up by its last id, up to `complete` and the end"):
        second = record(api, path, last_id=first.ids()[-1], seconds=timing.patience)
        same(second.events[-1].name, "complete", "the last event")
        expect(second.ended, "the server did not end the stream after `complete`")
        return first, second
    return None


def _check_later(checks: Checks, api: Api, batch: Json, first: Recording, whole: Recording) -> None:
    """When all is over."""
    path = f"/api/batches/{batch['batchId']}/stream"
    state = _read(whole)
    with checks.check("it ends as it should: one job failed, one took two attempts"):
        _check_outcome(state, disturbed=persistent(api) is not None)
    with checks.check("reading it by HTTP gives exactly what the stream gave"):
        _check_equal(api, batch["batchId"], state)
    with checks.check("whoever has the last id gets 204"):
        last = whole.ids()[-1]
        same(record(api, path, last_id=last).status, 204, "the status with Last-Event-ID")
        same(record(api, f"{path}?lastEventId={last}").status, 204, "the status with ?lastEventId")
    with checks.check("a resume in the middle, later, leads to the same state"):
        _check_late_resume(api, path, first, state)
    with checks.check("an id that is none is answered by a reset and a snapshot"):
        _check_reset(api, path, "bogus", "invalid_id", state)
    with checks.check("an id of other filters is answered by a reset and a snapshot"):
        _check_reset(api, f"{path}?logs=0", whole.ids()[0], "filters", state)
    with checks.check("?jobs=none&logs=0 leaves out jobs and lines"):
        short = record(api, f"{path}?jobs=none&logs=0")
        expect(not any(event.name == "log" for event in short.events), "there are log lines")
        expect(not any(event.data.get("jobs") for event in short.events), "there are jobs")
    with checks.check("the ticket in streamUrl opens it without a token"):
        # at the address that we were given: from where we are HEADWAY_PUBLIC_URL need not be reached
        place = urlsplit(batch["streamUrl"])
        opened = record(api, f"{place.path}?{place.query}", headers={})
        same(opened.status, 200, "the status")
        same(opened.events[-1].name, "complete", "the last event")
    check_conversation(checks, api, state.batch, state.jobs)


def _at(percent: int) -> Any:
    seen: set[str] = set()

    def enough(event: Event) -> bool:
        if event.id is not None:
            seen.add(event.id)
        return event.id is not None and len(seen) > 1 and event.data.get("progress", 0) >= percent

    return enough


def _read(recording: Recording, state: Reading | None = None) -> Reading:
    state = state or Reading()
    for event in recording.events:
        state.take(event)
    return state


def _check_head(recording: Recording) -> None:
    same(recording.status, 200, "the status")
    kind = recording.headers.get("content-type", "")
    same(kind.partition(";")[0], "text/event-stream", "Content-Type")
    control = recording.headers.get("cache-control", "")
    expect("no-cache" in control and "no-transform" in control, f"Cache-Control is {control!r}")
    expect("content-encoding" not in recording.headers, "something on the way compresses the stream")
    expect(recording.beginning.startswith(b"retry: "), f"it begins with {recording.beginning[:20]!r}")


def _check_outcome(state: Reading, *, disturbed: bool) -> None:
    batch = state.batch
    same(batch["status"], "PARTIAL", "status")
    same(batch["progress"], 100, "progress")
    expect(batch["finishedAt"], "finishedAt is null")
    expect(batch["summary"] is not None, "summary is null")
    counts = {"queued": 0, "processing": 0, "completed": 5, "failed": 1, "cancelled": 0, "total": 6}
    same(batch["counts"], counts, "counts")
    jobs = {job["name"]: job for job in state.jobs.values()}
    same(jobs["fails"]["status"], "FAILED", "the status of the job that fails")
    expect(jobs["fails"]["error"]["message"], "the failed job has no message")
    same(jobs["tries again"]["status"], "COMPLETED", "the status of the job that fails once")
    attempt = jobs["tries again"]["attempt"]
    same(min(attempt, 2) if disturbed else attempt, 2, "its attempt")  # of a worker that was killed: one more


def _check_equal(api: Api, batch_id: str, state: Reading) -> None:
    same(_comparable(api.batch(batch_id)), _comparable(state.batch), "the batch")
    same(
        list(api.jobs(batch_id)), sorted(state.jobs.values(), key=lambda job: int(job["position"])), "the list of jobs"
    )


def _check_late_resume(api: Api, path: str, first: Recording, state: Reading) -> None:
    place = first.ids()[0]
    until = next(index for index, event in enumerate(first.events) if event.id == place) + 1
    reader = _read(Recording(200, {}, b"", first.events[:until], ended=False))
    rest = record(api, path, last_id=place)
    same(rest.status, 200, "the status")
    _read(rest, reader)
    same(_comparable(reader.batch), _comparable(state.batch), "the batch")
    same(reader.jobs, state.jobs, "the jobs")
    same(reader.last_lines, state.last_lines, "the numbers of the last log lines")


def _check_reset(api: Api, path: str, last_id: str, reason: str, state: Reading) -> None:
    answer = record(api, path, last_id=last_id)
    reset, *rest = answer.events
    same((reset.name, reset.data.get("reason")), ("reset", reason), "the first event")
    expect(reset.id, "the reset carries no id")
    same(rest[-1].name, "complete", "the last event")
    same(_read(answer).jobs, state.jobs, "the snapshot's jobs")
    again = record(api, path, last_id=reset.id)
    same([event.name for event in again.events], [event.name for event in rest], "what follows a cut behind the reset")


def _comparable(batch: Json) -> Json:
    """Without estimates of the moment."""
    return {name: value for name, value in batch.items() if name not in {"waiting", "etaSeconds", "etaLow", "etaHigh"}}
