"""Progress from elsewhere: what a program reports of a job of the kind `external`, and what becomes of it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from services.api.app import create_app
from services.api.report_fields import MOST_REPORTS
from shared.kinds import QUEUES
from shared.settings import Settings
from tests.support.batches import assert_consistent, batch_row, job_rows, transition_rows
from tests.support.elsewhere import Run, external
from tests.support.web import assert_problem, client, decoded, rehearsal, served, submit, wrong_paths


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with served(create_app(replace(settings, max_line=40, max_lines=6, max_metadata=100, max_result=200))) as address:
        yield address


@pytest.fixture
def batch(anna: httpx.Client) -> dict[str, Any]:
    """Of two jobs."""
    return submit(anna, external(2))


@pytest.fixture
def jobs(anna: httpx.Client, batch: dict[str, Any]) -> list[str]:
    return ids(anna, batch)


@pytest.fixture
def run(anna: httpx.Client, jobs: list[str]) -> Run:
    """Of the first job."""
    return Run(anna, jobs[0])


def ids(api: httpx.Client, batch: dict[str, Any]) -> list[str]:
    return [job["id"] for job in decoded(api.get(f"/api/batches/{batch['batchId']}/jobs"))["items"]]


def job_of(api: httpx.Client, run: Run) -> dict[str, Any]:
    return decoded(api.get(f"/api/jobs/{run.job_id}"))


def lines_of(api: httpx.Client, run: Run, batch: dict[str, Any]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = decoded(api.get(f"/api/batches/{batch['batchId']}/logs?job={run.job_id}"))["items"]
    return lines


def conflict(reply: httpx.Response) -> str:
    detail: str = assert_problem(reply, 409, "conflict")["detail"]
    return detail


def test_a_kind_without_a_worker_is_listed_and_has_no_queue(anna: httpx.Client) -> None:
    kinds = {kind["kind"]: kind for kind in decoded(anna.get("/api/kinds"))["items"]}
    assert "" not in QUEUES
    assert (kinds["external"]["maxAttempts"], kinds["external"]["timeLimitSeconds"]) == (3, 604_800)
    wrong = [{"silenceSeconds": 0.5}, {"silenceSeconds": 86_401}, {"silence": 5}, {"data": []}]
    reply = anna.post("/api/batches", json=external() | {"jobs": [{"name": "x", "params": each} for each in wrong]})
    fields = ["silenceSeconds", "silenceSeconds", "silence", "data"]
    assert wrong_paths(reply) == [f"jobs[{number}].params.{field}" for number, field in enumerate(fields)]
    job = ids(anna, submit(anna, external(1, {"silenceSeconds": 86_400, "data": {"any": ["thing"]}})))[0]
    assert decoded(anna.get(f"/api/jobs/{job}"))["params"]["data"] == {"any": ["thing"]}


def test_a_job_is_told_of_from_its_start_to_its_end(
    anna: httpx.Client, engine: sa.Engine, batch: dict[str, Any], run: Run
) -> None:
    started = run.say("start")
    assert started == {
        "jobId": run.job_id,
        "batchId": batch["batchId"],
        "run": run.id,
        "sequence": 1,
        "status": "PROCESSING",
        "attempt": 1,
        "cancelRequested": False,
        "paused": False,
    }
    run.say("progress", percent=12.7, message="under way")
    job = job_of(anna, run)
    assert (job["progress"], job["message"], job["items"]) == (12, "under way", None)
    run.say("progress", done=3, failed=1, total=8)
    job = job_of(anna, run)
    assert (job["progress"], job["message"]) == (50, "under way")
    assert job["items"] == {"done": 3, "failed": 1, "total": 8}
    run.say("progress", done=5)
    assert job_of(anna, run)["items"] == {"done": 5, "failed": 1, "total": 8}
    run.say("progress", percent=20)
    assert job_of(anna, run)["progress"] == 75, "it does not fall"
    run.say("step", name="painting", percent=100)
    assert (job_of(anna, run)["step"], job_of(anna, run)["progress"]) == ("painting", 99)
    run.say("log", text="a line", level="success", at=None)
    run.say("warning", text="an item failed")
    run.say("metadata", metadata={"a": 1})
    run.say("metadata", metadata={"b": {"c": "ü"}})
    assert job_of(anna, run)["metadata"] == {"b": {"c": "ü"}}
    ended = run.say("complete", result={"pictures": 7})
    assert (ended["sequence"], ended["status"]) == (11, "COMPLETED")
    job = job_of(anna, run)
    assert (job["result"], job["progress"], job["error"]) == ({"pictures": 7}, 100, None)
    assert [attempt["error"] for attempt in job["attempts"]] == [None]
    told = [(line["n"], line["attempt"], line["level"], line["text"]) for line in lines_of(anna, run, batch)]
    assert told == [(1, 1, "phase", "painting"), (2, 1, "success", "a line"), (3, 1, "warn", "an item failed")]
    row = batch_row(engine, UUID(batch["batchId"]))
    assert (row.version, row.processing, row.completed, row.failed_items) == (11, 0, 1, 1)
    assert_consistent(engine, UUID(batch["batchId"]))
    reasons = [step.reason for step in transition_rows(engine, row.id) if step.job_id is not None]
    assert reasons == ["started", "completed"]


def test_all_of_it_may_come_in_one_request(
    anna: httpx.Client, engine: sa.Engine, batch: dict[str, Any], run: Run
) -> None:
    reports: list[dict[str, Any]] = [
        {"type": "start"},
        *({"type": "progress", "done": number, "total": 500} for number in range(MOST_REPORTS - 3)),
        {"type": "log", "text": "done"},
        {"type": "complete"},
    ]
    assert run.tell(*reports)["status"] == "COMPLETED"
    assert batch_row(engine, UUID(batch["batchId"])).version == 2
    job = job_of(anna, run)
    assert (job["result"], job["items"]["done"], job["attempt"]) == (None, MOST_REPORTS - 4, 1)
    assert_consistent(engine, UUID(batch["batchId"]))


@pytest.mark.parametrize(
    "end",
    [
        {"type": "complete", "result": [1, None, "x"]},
        {"type": "fail", "message": "broken", "code": "disk.full"},
        {"type": "fail", "message": "broken", "retry": True},
        {"type": "cancelled"},
    ],
)
def test_a_request_that_is_sent_again_changes_nothing(
    anna: httpx.Client, engine: sa.Engine, batch: dict[str, Any], run: Run, end: dict[str, Any]
) -> None:
    requests: list[list[dict[str, Any]]] = [
        [{"sequence": 1, "type": "start"}, {"sequence": 2, "type": "log", "text": "one"}],
        [{"sequence": 5, "type": "progress", "percent": 10}, {"sequence": 6, "type": "warning", "text": "two"}],
        [{"sequence": 7, "type": "metadata", "metadata": {"x": 1}}, {"sequence": 9, "type": "step", "name": "s"}],
        [{"sequence": 10} | end],
    ]
    for number, reports in enumerate(requests):
        replies = [run.send(reports)]
        state = job_of(anna, run), lines_of(anna, run, batch), batch_row(engine, UUID(batch["batchId"]))
        replies += [run.send(again) for again in requests[: number + 1]]
        for reply in replies:
            assert reply.status_code == 200, reply.text
            assert decoded(reply) == decoded(replies[0]) | {"sequence": reports[-1]["sequence"]}
        assert (job_of(anna, run), lines_of(anna, run, batch), batch_row(engine, UUID(batch["batchId"]))) == state
    assert batch_row(engine, UUID(batch["batchId"])).version == 5
    assert_consistent(engine, UUID(batch["batchId"]))


def test_what_is_new_in_a_request_counts_and_the_rest_is_passed_over(
    anna: httpx.Client, batch: dict[str, Any], run: Run
) -> None:
    first = [{"sequence": 1, "type": "start"}, {"sequence": 2, "type": "log", "text": "one"}]
    assert run.send(first).status_code == 200
    assert decoded(run.send([*first, {"sequence": 3, "type": "log", "text": "two"}]))["sequence"] == 3
    assert [line["text"] for line in lines_of(anna, run, batch)] == ["one", "two"]


def test_a_heartbeat_renews_the_lease_and_shows_nowhere(
    anna: httpx.Client, engine: sa.Engine, batch: dict[str, Any], run: Run
) -> None:
    run.tell({"type": "start"}, {"type": "progress", "percent": 30, "message": "on", "done": 3, "total": 10})
    before = job_rows(engine, UUID(batch["batchId"]))[0]
    same: list[dict[str, Any]] = [{}, {"percent": 30}, {"percent": 2, "message": "on"}, {"done": 3, "failed": 0}]
    for fields in same:
        run.say("progress", **fields)
    run.say("start")
    after = job_rows(engine, UUID(batch["batchId"]))[0]
    assert after.version == before.version == batch_row(engine, UUID(batch["batchId"])).version
    assert after.lease_until > before.lease_until
    assert after.lease_until - datetime.now(UTC) > timedelta(seconds=200)
    assert (after.reported, job_of(anna, run)["progress"]) == (7, 30)


def test_a_failure_is_tried_again_if_that_is_worth_it_and_attempts_are_left(
    anna: httpx.Client, engine: sa.Engine, batch: dict[str, Any], jobs: list[str]
) -> None:
    fail = {"type": "fail", "message": "the printer burns", "code": "fire", "retry": True}
    for attempt, status in enumerate(("QUEUED", "QUEUED", "FAILED"), start=1):
        run = Run(anna, jobs[0])
        reply = run.tell({"type": "start"}, fail)
        assert (reply["status"], reply["attempt"]) == (status, attempt)
        job = job_of(anna, run)
        assert (job["error"], job["runAfter"]) == ({"code": "fire", "message": "the printer burns"}, None)
        assert_consistent(engine, UUID(batch["batchId"]))
    assert [attempt["error"]["code"] for attempt in job_of(anna, run)["attempts"]] == ["fire"] * 3
    assert lines_of(anna, run, batch)[-1]["text"] == "attempt 3 failed: the printer burns"
    assert "FAILED already" in conflict(run.post({"type": "progress"}))
    assert "FAILED already" in conflict(Run(anna, jobs[0]).post({"type": "start", "takeOver": True}))
    assert anna.post(f"/api/jobs/{jobs[0]}/retry").status_code == 202
    assert run.send([{"sequence": 1, "type": "start"}, {"sequence": 2} | fail]).json()["status"] == "QUEUED", "old news"
    assert run.say("start")["attempt"] == 4, "the same run may begin anew, with a number that is new"
    other = Run(anna, jobs[1])
    assert other.tell({"type": "start"}, {"type": "fail", "message": "no"})["status"] == "FAILED", "not worth it"
    assert job_of(anna, other)["error"]["code"] == "failed"


def test_only_one_run_has_a_job(anna: httpx.Client, jobs: list[str], run: Run) -> None:
    other = Run(anna, jobs[0])
    assert "has not started" in conflict(run.post({"type": "progress"}))
    run.say("start")
    for report in ({"type": "start"}, {"type": "progress"}, {"type": "complete"}):
        assert "another run has this job" in conflict(other.post(report))
    run.say("fail", message="again", retry=True)
    assert "its attempt is over" in conflict(run.post({"type": "log", "text": "late"}))
    assert other.say("start")["attempt"] == 2
    assert "another run" in conflict(run.post({"type": "complete"}))
    assert other.say("complete")["status"] == "COMPLETED"


def test_a_run_may_take_over_from_another(
    anna: httpx.Client, engine: sa.Engine, batch: dict[str, Any], jobs: list[str]
) -> None:
    old = Run(anna, jobs[0])
    old.tell({"type": "start"}, {"type": "progress", "percent": 60}, {"type": "log", "text": "one"})
    for attempt in range(2, 6):  # more often than an attempt may fail by itself
        new = Run(anna, jobs[0])
        told = new.tell({"type": "start", "takeOver": True}, {"type": "progress", "percent": 10})
        assert (told["attempt"], told["status"], told["sequence"]) == (attempt, "PROCESSING", 2)
        assert "another run" in conflict(old.post({"type": "progress"}))
        assert_consistent(engine, UUID(batch["batchId"]))
        old = new
    job = job_of(anna, new)
    assert [attempt["error"] and attempt["error"]["code"] for attempt in job["attempts"]] == ["superseded"] * 4 + [None]
    assert (job["progress"], job["error"]) == (60, None)
    assert "attempt 4 failed: another run took over" in [line["text"] for line in lines_of(anna, new, batch)]
    assert new.say("fail", message="x", retry=True)["status"] == "FAILED", "so many have failed by now"


def test_nobody_takes_over_what_is_being_cancelled(anna: httpx.Client, run: Run) -> None:
    run.say("start")
    assert anna.post(f"/api/jobs/{run.job_id}/cancel").status_code == 202
    new = Run(anna, run.job_id)
    assert "being cancelled" in conflict(new.post({"type": "start", "takeOver": True}))
    assert run.say("progress")["cancelRequested"] is True


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ({"type": "cancelled"}, "CANCELLED"),
        ({"type": "fail", "message": "interrupted", "retry": True}, "CANCELLED"),
        ({"type": "complete", "result": 1}, "COMPLETED"),
    ],
)
def test_a_cancel_is_told_to_the_run_which_ends_the_job(
    anna: httpx.Client, engine: sa.Engine, batch: dict[str, Any], run: Run, end: dict[str, Any], status: str
) -> None:
    assert run.say("start")["cancelRequested"] is False
    asked = decoded(anna.post(f"/api/batches/{batch['batchId']}/cancel"))
    assert (asked["status"], asked["counts"]["cancelled"]) == ("PROCESSING", 1)
    told = run.say("progress", percent=40)
    assert (told["cancelRequested"], told["status"]) == (True, "PROCESSING")
    assert run.tell(end)["status"] == status
    assert decoded(anna.get(f"/api/batches/{batch['batchId']}"))["status"] == "CANCELLED"
    assert_consistent(engine, UUID(batch["batchId"]))
    assert anna.delete(f"/api/batches/{batch['batchId']}").status_code == 204
    assert_problem(run.post({"type": "progress"}), 404, "not_found")


def test_a_job_that_was_cancelled_before_it_began_cannot_begin(anna: httpx.Client, run: Run) -> None:
    anna.post(f"/api/jobs/{run.job_id}/cancel")
    assert "CANCELLED already" in conflict(run.post({"type": "start"}))


def test_of_a_paused_batch_a_start_is_a_fact_all_the_same(
    anna: httpx.Client, engine: sa.Engine, batch: dict[str, Any], run: Run
) -> None:
    anna.post(f"/api/batches/{batch['batchId']}/pause")
    told = run.say("start")
    assert (told["paused"], told["status"]) == (True, "PROCESSING")
    assert decoded(anna.get(f"/api/batches/{batch['batchId']}"))["status"] == "PAUSED"
    anna.post(f"/api/batches/{batch['batchId']}/resume")
    assert run.say("progress")["paused"] is False
    assert_consistent(engine, UUID(batch["batchId"]))


def test_more_jobs_may_run_than_the_batch_allows_at_once(anna: httpx.Client) -> None:
    batch = submit(anna, external(3, concurrency=1))
    for job in ids(anna, batch):
        assert Run(anna, job).say("start")["status"] == "PROCESSING"


def test_texts_are_cut_and_lines_have_an_end(anna: httpx.Client, batch: dict[str, Any], run: Run) -> None:
    run.tell({"type": "start"}, {"type": "log", "text": "a\0b" + "x" * 100}, {"type": "progress", "message": "ü" * 400})
    (line,) = lines_of(anna, run, batch)
    assert line["text"].startswith("abxx")
    assert line["text"].endswith(" … (cut)")
    assert len(line["text"].encode()) == 40
    assert len(job_of(anna, run)["message"].encode()) <= 500
    run.tell(*({"type": "warning", "text": f"{number}"} for number in range(10)))
    run.tell({"type": "step", "name": "z" * 600})
    lines = lines_of(anna, run, batch)
    assert [line["n"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["text"].startswith("no more than 6 log lines")
    assert lines[-1]["level"] == "warn"
    assert len(job_of(anna, run)["step"].encode()) == 500
    run.say("fail", message="e" * 3000)
    assert len(job_of(anna, run)["error"]["message"].encode()) == 2000


def test_a_line_keeps_its_time_if_that_can_be(anna: httpx.Client, batch: dict[str, Any], run: Run) -> None:
    began = datetime.now(UTC)
    earlier = (began - timedelta(minutes=3)).replace(microsecond=125_000)
    times = [earlier.isoformat(), "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", None]
    run.tell({"type": "start"}, *({"type": "log", "text": str(n), "at": at} for n, at in enumerate(times)))
    shown = [datetime.fromisoformat(line["at"]) for line in lines_of(anna, run, batch)]
    assert shown[0] == earlier
    assert all(began - timedelta(seconds=1) <= moment <= datetime.now(UTC) for moment in shown[1:])


def test_every_wrong_field_is_named_and_nothing_is_stored(
    anna: httpx.Client, engine: sa.Engine, batch: dict[str, Any], run: Run
) -> None:
    deep: Any = []
    for _ in range(70):
        deep = [deep]
    wrong: list[Any] = [
        {"sequence": 1, "type": "start", "takeover": True},
        {"sequence": 0, "type": "progress", "percent": 101, "done": -1, "failed": 1.5, "total": "x", "message": 1},
        {"sequence": 3, "type": "progres"},
        {"sequence": 4},
        {"type": "progress"},
        7,
        {"sequence": 5, "type": "step"},
        {"sequence": 6, "type": "log", "text": None, "level": "loud", "at": "2026-11-21T08:30:00"},
        {"sequence": 7, "type": "metadata", "metadata": {"a": "x" * 100}},
        {"sequence": 8, "type": "metadata", "metadata": {"a": "\0"}},
        {"sequence": 9, "type": "metadata", "metadata": []},
        {"sequence": 9, "type": "warning", "text": "x"},
        {"sequence": 8, "type": "warning", "text": "x"},
        {"sequence": 10, "type": "fail", "code": "a: b"},
        {"sequence": 11, "type": "complete", "result": "x" * 200},
        {"sequence": 12, "type": "complete", "result": deep},
        {"sequence": 13, "type": "cancelled", "why": 1},
        {"sequence": 14, "type": "fail", "message": "x", "code": "a\n"},
    ]
    fields = """
        [0].takeover [1].sequence [1].percent [1].message [1].done [1].failed [1].total [2].type [3].type [4].sequence
        [5] [6].name [7].text [7].level [7].at [8].metadata [9].metadata.a [10].metadata [12].sequence
        [13].message [13].code [14].result [15] [15].result [16].why [17].code
    """
    paths = wrong_paths(run.send(wrong, why="?"))
    deepest = [path for path in paths if path.startswith("reports[15].result")]
    assert len(deepest) == 1
    paths[paths.index(deepest[0])] = "reports[15].result"
    assert sorted(paths) == sorted(["why", *(f"reports{field}" for field in fields.split())])
    assert batch_row(engine, UUID(batch["batchId"])).version == 1
    assert job_rows(engine, UUID(batch["batchId"]))[0].reported == 0


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({"reports": [{"sequence": 1, "type": "start"}]}, ["run"]),
        ({"run": "me", "reports": [{"sequence": 1, "type": "begin"}]}, ["run", "reports[0].type"]),
        ({"run": str(uuid4()), "reports": []}, ["reports"]),
        ({"run": str(uuid4()), "reports": {}}, ["reports"]),
        ({"run": str(uuid4())}, ["reports"]),
        ({"run": str(uuid4()), "reports": [{"sequence": n, "type": "start"} for n in range(1, 1002)]}, ["reports"]),
        ([], [""]),
    ],
)
def test_the_body_has_a_run_and_reports(anna: httpx.Client, run: Run, body: Any, paths: list[str]) -> None:
    assert wrong_paths(anna.post(f"/api/jobs/{run.job_id}/report", json=body)) == paths


def test_other_refusals(anna: httpx.Client, address: str, settings: Settings, run: Run) -> None:
    path, start = f"/api/jobs/{run.job_id}/report", {"run": run.id, "reports": [{"sequence": 1, "type": "start"}]}
    assert_problem(anna.post(path, content=b"{", headers={"Content-Type": "application/json"}), 400, "malformed")
    assert_problem(
        anna.post(path, content=b"[" * 100_000, headers={"Content-Type": "application/json"}), 400, "malformed"
    )
    assert_problem(anna.post(path, content=b"{}"), 415, "unsupported_media_type")
    assert_problem(anna.get(path), 405, "method_not_allowed")
    assert wrong_paths(anna.post(path, json=start, params={"x": "1"})) == ["x"]
    assert_problem(anna.post(f"/api/jobs/{uuid4()}/report", json=start), 404, "not_found")
    with client(address, settings, "ben") as ben:
        assert_problem(ben.post(path, json=start), 404, "not_found")
    ours = ids(anna, submit(anna, rehearsal()))[0]
    assert "`" not in conflict(anna.post(f"/api/jobs/{ours}/report", json=start))
    with served(create_app(replace(settings, max_request=2000))) as small, client(small, settings) as api:
        long = {"run": run.id, "reports": [{"sequence": 1, "type": "log", "text": "x" * 2000}]}
        assert_problem(api.post(path, json=long), 413, "too_large")
    assert anna.post(path, json=start).status_code == 200


def test_ten_thousand_jobs_are_created_and_reported(anna: httpx.Client, engine: sa.Engine) -> None:
    batch = submit(anna, external(10_000, {"silenceSeconds": 60, "data": {"path": "a/b"}}))
    assert batch["counts"]["queued"] == 10_000
    last = decoded(anna.get(f"/api/batches/{batch['batchId']}/jobs?limit=1"))["items"][0]
    assert Run(anna, last["id"]).tell({"type": "start"}, {"type": "complete"})["status"] == "COMPLETED"
    row = batch_row(engine, UUID(batch["batchId"]))
    assert (row.queued, row.completed, row.version) == (9_999, 1, 2)


def test_nobody_waits_for_a_worker_that_there_is_none_of(anna: httpx.Client, batch: dict[str, Any], run: Run) -> None:
    assert decoded(anna.get(f"/api/batches/{batch['batchId']}"))["waiting"] is None
    run.tell({"type": "start"}, {"type": "fail", "message": "x", "retry": True})
    assert decoded(anna.get(f"/api/batches/{batch['batchId']}"))["waiting"] is None


def test_a_batch_that_is_not_to_begin_yet_has_begun_when_somebody_did(anna: httpx.Client, engine: sa.Engine) -> None:
    ahead = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    first = submit(anna, external())
    for plan in ({"runAfter": ahead}, {"after": first["batchId"]}):
        batch = submit(anna, external(**plan))
        assert batch["waiting"]["reason"] == "delayed"
        (job,) = ids(anna, batch)
        assert Run(anna, job).say("start")["status"] == "PROCESSING"
        now = decoded(anna.get(f"/api/batches/{batch['batchId']}"))
        assert (now["status"], now["counts"]["processing"]) == ("PROCESSING", 1)
        Run(anna, job).tell({"type": "start", "takeOver": True}, {"type": "complete"})
        assert decoded(anna.get(f"/api/batches/{batch['batchId']}"))["status"] == "COMPLETED"
        assert_consistent(engine, UUID(batch["batchId"]))


def test_jobs_are_added_while_others_are_reported(anna: httpx.Client, engine: sa.Engine) -> None:
    batch = submit(anna, external(1, open=True))
    path = f"/api/batches/{batch['batchId']}"
    assert Run(anna, ids(anna, batch)[0]).tell({"type": "start"}, {"type": "complete"})["status"] == "COMPLETED"
    assert decoded(anna.get(path))["status"] == "PROCESSING", "more may come"
    reply = anna.post(f"{path}/jobs", json={"jobs": external(2)["jobs"]})
    assert reply.status_code == 201, reply.text
    for job in ids(anna, batch)[1:]:
        Run(anna, job).tell({"type": "start"}, {"type": "progress", "done": 1, "total": 3}, {"type": "complete"})
    assert anna.post(f"{path}/close").status_code == 202
    assert decoded(anna.get(path))["status"] == "COMPLETED"
    assert_consistent(engine, UUID(batch["batchId"]))
