"""What is reported from elsewhere, as those who watch see it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa

from infra.web import Web
from services.api.app import create_app as create_api
from services.stream.app import create_app as create_stream
from shared.settings import Settings
from tests.support.batches import assert_consistent
from tests.support.elsewhere import Run, external, reporter
from tests.support.sse import Event, Stream
from tests.support.web import decoded, served, submit


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with served(Web(create_api(settings), create_stream(settings))) as address:
        yield address


def told(events: list[Event]) -> dict[str, Any]:
    """The last state of the job that they tell of."""
    jobs = [job for event in events for job in event.data.get("jobs", ())]
    last: dict[str, Any] = jobs[-1]
    return last


def test_a_viewer_sees_each_request_as_one_change(address: str, anna: httpx.Client, token: str) -> None:
    batch = submit(anna, external(2))
    other, job = decoded(anna.get(f"/api/batches/{batch['batchId']}/jobs"))["items"]
    with (
        reporter(address, batch["reportToken"]) as program,
        Stream(address, UUID(batch["batchId"]), token) as stream,
    ):
        stream.delta()
        assert stream.record.version == 1
        run = Run(program, job["id"])
        run.tell({"type": "start"}, {"type": "metadata", "metadata": {"printer": "b"}}, {"type": "log", "text": "one"})
        seen = stream.delta()
        assert [event.name for event in seen] == ["log", "progress"]
        assert seen[0].data["lines"][0]["text"] == "one"
        now = told(seen)
        assert (now["id"], now["status"], now["metadata"]) == (job["id"], "PROCESSING", {"printer": "b"})
        run.tell({"type": "progress", "done": 2, "total": 4}, {"type": "progress", "done": 3, "message": "more"})
        now = told(stream.delta())
        assert (now["items"], now["progress"], now["message"]) == ({"done": 3, "failed": 0, "total": 4}, 75, "more")
        assert stream.record.version == 3
        run.say("progress")
        run.say("fail", message="jammed", retry=True)
        now = told(stream.delta())
        assert stream.record.version == 4, "a heartbeat shows nowhere"
        assert (now["status"], now["error"]) == ("QUEUED", {"code": "failed", "message": "jammed"})
        anna.post(f"/api/jobs/{other['id']}/cancel")
        stream.delta()
        Run(program, job["id"]).tell({"type": "start"}, {"type": "complete", "result": 3})
        assert stream.until("complete")[-1].data["status"] == "PARTIAL"
    assert [line["text"] for line in stream.record.lines.values()] == ["one", "attempt 1 failed: jammed"]


def test_a_thousand_reports_are_one_change(address: str, anna: httpx.Client, token: str) -> None:
    batch = submit(anna, external())
    job = decoded(anna.get(f"/api/batches/{batch['batchId']}/jobs"))["items"][0]
    run = Run(anna, job["id"])
    at = datetime.now(UTC).isoformat()
    with Stream(address, UUID(batch["batchId"]), token, logs=1000) as stream:
        stream.delta()
        run.tell({"type": "start"}, *({"type": "log", "text": f"line {n}", "at": at} for n in range(999)))
        stream.to_version(2)
        assert stream.record.version == 2
        assert [line["n"] for line in stream.record.lines.values()] == list(range(1, 1000))


def test_many_programs_report_one_batch_at_once(
    address: str, anna: httpx.Client, engine: sa.Engine, token: str
) -> None:
    batch = submit(anna, external(16))
    listed = decoded(anna.get(f"/api/batches/{batch['batchId']}/jobs"))["items"]

    def report(job: dict[str, Any]) -> None:
        with reporter(address, batch["reportToken"]) as program:
            run = Run(program, job["id"])
            run.say("start")
            for done in range(5):
                run.tell({"type": "progress", "done": done, "total": 5}, {"type": "log", "text": f"{done}"})
            run.say("complete")

    with Stream(address, UUID(batch["batchId"]), token) as stream, ThreadPoolExecutor(8) as programs:
        list(programs.map(report, listed))
        assert stream.until("complete")[-1].data["counts"]["completed"] == len(listed)
    assert len(stream.record.lines) == 5 * len(listed)
    assert_consistent(engine, UUID(batch["batchId"]))
