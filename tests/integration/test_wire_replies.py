"""Every reply that succeeds, of every operation, as real processes give it, against tests/wire/replies.json.

The story: two jobs, one after the other, of which the second fails, before, while and after a worker runs them.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from shared.events import stamp
from shared.settings import Settings
from tests.support.batches import wait_finished
from tests.support.openapi import OPENAPI, check_reply, reply_described, validate
from tests.support.processes import worker
from tests.support.streams import stream_process
from tests.support.web import client
from tests.support.wire import Normal, compare, golden
from tests.support.workers import add_worker
from tests.support.writer import Writer

BATCH = "/api/batches/{id}"
JOB = "/api/jobs/{id}"

SUBMISSION = {
    "kind": "rehearsal",
    "title": "A golden batch",
    "metadata": {"order": 7},
    "concurrency": 1,
    "jobs": [
        {"name": "first", "params": {"steps": 2, "stepMs": 1, "logsPerStep": 1, "artifactBytes": 64}},
        {"name": "second", "params": {"steps": 2, "stepMs": 1, "failAtStep": 2}},
    ],
}

PLANNED, LATER = (stamp(datetime.now(UTC) + timedelta(days=days)) for days in (1, 2))

SHORTENED = {"text/html", "text/css", "text/javascript", "text/event-stream"}
"""Pages and files are what they are in this repository, and events have a file of their own."""

WITHOUT_BODY = {"/openapi.json"}


class Recorder:
    def __init__(self, user: httpx.Client) -> None:
        self.user = user
        self.replies: list[dict[str, Any]] = []

    def ask(self, method: str, path: str, id_: str = "", artifact: str = "", *, note: str = "", **more: Any) -> Any:
        """The reply's JSON. What was sent and came is checked against the OpenAPI document, and noted."""
        variables = {"id": id_, "artifact": artifact, "path": "icon.svg", "name": "swagger-ui.css", "code": "conflict"}
        reply = self.user.request(method, path.format(**variables), **more)
        check_reply(method, path, reply)
        named = {*reply_described(method, path, reply.status_code).get("headers", {}), "Content-Type"}
        kind = reply.headers.get("content-type", "").partition(";")[0]
        body: Any = reply.text or None
        if kind == "application/json":
            body = reply.json() if reply.content and path not in WITHOUT_BODY else None
        elif kind in SHORTENED or kind.startswith("image/"):
            body = None
        self.replies.append(
            {
                "request": f"{method} {path}",
                **({"note": note} if note else {}),
                "status": reply.status_code,
                "headers": {name: reply.headers[name] for name in sorted(named) if name in reply.headers},
                "body": body,
            }
        )
        return body


@pytest.fixture
def recorder(settings: Settings) -> Iterator[Recorder]:
    # the streams that are asked for end at once
    with (
        stream_process(replace(settings, lifetime=0.1), "infra.web") as (address, _),
        client(address, settings, scope="admin") as user,
    ):
        yield Recorder(user)


def record_the_beginning(recorder: Recorder) -> tuple[str, str, str]:
    """The ids of the batch and of its jobs."""
    ask = recorder.ask
    ask("GET", "/health/live")
    ask("GET", "/health/ready")
    ask("GET", "/api/kinds")
    ask("POST", "/api/uploads", files={"file": ("notes.txt", b"plain text")})
    once = {"Idempotency-Key": "golden"}
    batch = ask("POST", "/api/batches", json=SUBMISSION, headers=once)
    ask("POST", "/api/batches", json=SUBMISSION, headers=once, note="again with the same Idempotency-Key")
    batch_id = str(batch["batchId"])
    first, second = ask("GET", f"{BATCH}/jobs", batch_id)["items"]
    ask("GET", "/api/batches")
    ask("GET", BATCH, batch_id, note="before it began")
    ask("POST", f"{BATCH}/pause", batch_id)
    ask("POST", f"{BATCH}/resume", batch_id)
    ask("POST", f"{BATCH}/tickets", batch_id)
    ask("GET", f"{BATCH}/stream", batch_id)
    ask("HEAD", f"{BATCH}/stream", batch_id)
    ask("GET", "/api/stream")
    ask("HEAD", "/api/stream")
    changes = ask("GET", f"{BATCH}/changes", batch_id, note="all there is")
    ask("GET", f"{BATCH}/changes", batch_id, note="nothing new", params={"since": changes["id"]})
    ask("HEAD", f"{BATCH}/changes", batch_id)
    return batch_id, first["id"], second["id"]


def record_the_end(recorder: Recorder, batch_id: str, first: str, second: str) -> None:
    ask = recorder.ask
    batch = ask("GET", BATCH, batch_id, note="finished")
    assert batch["status"] == "PARTIAL"
    ask("GET", f"{BATCH}/jobs", batch_id, note="finished, a page of one", params={"limit": 1})
    ask("GET", JOB, first, note="completed")
    ask("GET", JOB, second, note="failed")
    (artifact,) = ask("GET", f"{JOB}/artifacts", first)["items"]
    ask("GET", f"{JOB}/artifacts/{{artifact}}", first, artifact["id"])
    ask("GET", f"{BATCH}/logs", batch_id)
    ask("GET", f"{BATCH}/logs", batch_id, note="of one job", params={"job": second, "level": "error,warn", "limit": 1})
    ask("GET", f"{BATCH}/logs", batch_id, note="to download", params={"format": "text"})
    ask("GET", f"{BATCH}/timeline", batch_id)
    last_id = recorder.user.get(f"/api/batches/{batch_id}/stream").text.rpartition("\nid: ")[2].partition("\n")[0]
    for method in ("GET", "HEAD"):
        ask(method, f"{BATCH}/stream", batch_id, headers={"Last-Event-ID": last_id}, note="with the last id")
    ask("GET", f"{BATCH}/changes", batch_id, note="finished")
    ask("GET", f"{BATCH}/changes", batch_id, note="an id of other filters", params={"since": last_id, "logs": 1})


def record_what_follows(recorder: Recorder, batch_id: str, second: str) -> None:
    ask = recorder.ask
    ask("POST", f"{BATCH}/retry-failed", batch_id)
    ask("POST", f"{JOB}/cancel", second)
    ask("POST", f"{JOB}/retry", second)
    ask("POST", f"{BATCH}/cancel", batch_id)
    ask("DELETE", BATCH, batch_id)


def record_more_jobs(recorder: Recorder) -> None:
    """Of a batch that is planned, and to which jobs are added."""
    ask = recorder.ask
    planned = {"runAfter": PLANNED, "expiresAt": LATER, "open": True}
    body = {"kind": "rehearsal", "title": "Later"}
    batch_id = ask("POST", "/api/batches", json=body | planned, note="planned, and open")["batchId"]
    more = {"jobs": SUBMISSION["jobs"]}
    once = {"Idempotency-Key": "more"}
    ask("POST", f"{BATCH}/jobs", batch_id, json=more, headers=once)
    ask("POST", f"{BATCH}/jobs", batch_id, json=more, headers=once, note="again with the same Idempotency-Key")
    follows = body | {"jobs": more["jobs"], "after": batch_id, "afterAny": True}
    follows_id = ask("POST", "/api/batches", json=follows, note="after another")["batchId"]
    ask("POST", f"{BATCH}/close", batch_id)
    for id_ in (batch_id, follows_id):
        recorder.user.post(f"/api/batches/{id_}/cancel").raise_for_status()


def record_reports(recorder: Recorder) -> None:
    """Of a job that is done elsewhere."""
    ask = recorder.ask
    jobs = [{"name": "printing", "params": {"silenceSeconds": 60, "data": {"printer": "b"}}}]
    batch = ask("POST", "/api/batches", json={"kind": "external", "title": "Elsewhere", "jobs": jobs}, note="elsewhere")
    (job,) = recorder.user.get(f"/api/batches/{batch['batchId']}/jobs").json()["items"]
    ask("POST", f"{BATCH}/report-tokens", batch["batchId"])
    run = "7d1c6c56-0d1b-4a5e-9d4e-6f1f0c5b8a11"
    begun: list[dict[str, Any]] = [
        {"type": "start", "takeOver": False},
        {"type": "progress", "percent": 25, "message": "sheet 1", "done": 1, "failed": 0, "total": 4},
        {"type": "step", "name": "printing", "percent": None},
        {"type": "log", "text": "paper is low", "level": "info", "at": "2026-01-01T00:00:00.000Z"},
        {"type": "warning", "text": "sheet 2 is crooked"},
        {"type": "metadata", "metadata": {"sheets": 4}},
    ]
    numbered = [{"sequence": number} | report for number, report in enumerate(begun, start=1)]
    ask("POST", f"{JOB}/report", job["id"], json={"run": run, "reports": numbered}, note="begun")
    end = {"sequence": 7, "type": "complete", "result": {"sheets": 4}}
    ask(
        "POST", f"{JOB}/report", job["id"], json={"run": run, "reports": [*numbered, end]}, note="sent again, and ended"
    )
    ask("GET", JOB, job["id"], note="done elsewhere")


def record_workers(recorder: Recorder, engine: sa.Engine, writer: Writer) -> None:
    """Of which one runs a job."""
    writer.start(0)
    worker_id = str(add_worker(engine, running=1, job_ids=writer.jobs[:1]))
    recorder.ask("GET", "/api/workers")
    recorder.ask("POST", "/api/workers/{id}/drain", worker_id)


def record_pages(recorder: Recorder) -> None:
    for path, methods in OPENAPI["paths"].items():
        if "Pages" not in methods.get("get", {}).get("tags", ()):
            continue
        for method in ("GET", "HEAD"):
            some_id = "00000000-0000-7000-8000-000000000000"
            recorder.ask(method, path, some_id)
            recorder.ask(method, path, some_id, headers={"If-None-Match": "*"})


def test_the_servers_answer_like_this(
    recorder: Recorder,
    settings: Settings,
    engine: sa.Engine,
    make_writer: Callable[..., Writer],
    tmp_path: Path,
    rewrite_wire: bool,
) -> None:
    batch_id, first, second = record_the_beginning(recorder)
    with worker(settings, tmp_path) as process:
        wait_finished(engine, batch_id)  # type: ignore[arg-type]
        process.terminate()  # a killed one would be among the workers that are seen
        assert process.wait(20) == 0
    record_the_end(recorder, batch_id, first, second)
    record_what_follows(recorder, batch_id, second)
    record_more_jobs(recorder)
    record_reports(recorder)
    record_workers(recorder, engine, make_writer())
    record_pages(recorder)
    compare("replies.json", Normal()(recorder.replies), rewrite=rewrite_wire)


def test_every_reply_of_every_operation_is_among_them() -> None:
    shown = {(*reply["request"].split(), reply["status"]) for reply in golden("replies.json")}
    described = {
        (method.upper(), path, int(status))
        for path, methods in OPENAPI["paths"].items()
        for method, operation in methods.items()
        for status, reply in operation["responses"].items()
        if "$ref" not in reply
    }
    # test_api_outages.py and test_socket_conformance.py
    elsewhere = {("GET", "/health/ready", 503), ("GET", "/api/ws", 101)}
    assert described - shown == elsewhere
    assert shown <= described


def test_they_are_what_the_document_says() -> None:
    checked = 0
    for reply in golden("replies.json"):
        method, path = reply["request"].split()
        content = reply_described(method, path, reply["status"]).get("content", {})
        if reply["headers"].get("Content-Type") == "application/json" and reply["body"] is not None:
            validate(reply["body"], content["application/json"]["schema"])
            checked += 1
    assert checked >= 20
