"""What can be done to a batch: sent twice, paused, read without a stream, retried, deleted."""

import time
from typing import Any
from uuid import uuid4

import httpx

from infra.cli.api import Api
from infra.cli.smoketest.checks import Checks, expect, same
from infra.cli.smoketest.recording import record

Json = dict[str, Any]

_JOBS = [
    {"name": "goes on", "params": {"steps": 5, "stepMs": 100}},
    {"name": "fails", "params": {"steps": 1, "stepMs": 1, "failAtStep": 1}},
]
"""One after the other: a pause comes before the second, however quick the workers are."""


def check_control(checks: Checks, api: Api, patience: float) -> None:
    """`patience` in seconds, for a small batch. It is deleted in the end."""
    batch: Json = {}
    with checks.check("a creation that is sent twice makes one batch"):
        batch = _create_twice(api)
    if not batch:
        return
    path = f"/api/batches/{batch['batchId']}"
    last = "0"
    with checks.check("a paused batch starts nothing more, and goes on when it is resumed"):
        same(api.control(batch["batchId"], "pause")["status"], "PAUSED", "status")
        paused = _await_idle(api, path, patience)
        same((paused["status"], paused["waiting"]), ("PAUSED", {"reason": "paused"}), "status and waiting")
        expect(paused["counts"]["queued"], "everything was run")
        api.control(batch["batchId"], "resume")
        ended = record(api, f"{path}/stream", seconds=patience)
        same((ended.events[-1].name, ended.events[-1].data["status"]), ("complete", "PARTIAL"), "the end")
        last = ended.ids()[-1]
    with checks.check("changes without a stream lead to the same id, and wait where there is nothing new"):
        whole = _get(api, f"{path}/changes?since=0")
        same((whole["id"], whole["done"], whole["reset"]), (last, True, False), "id, done and reset")
        same(_get(api, f"{path}/changes?since={last}&wait=0.5")["id"], last, "the id after waiting")
    with checks.check("its log can be searched and downloaded, its history read"):
        found = _get(api, f"{path}/logs?level=error")["items"]
        expect(found and all(line["level"] == "error" for line in found), "no line of level `error` was found")
        text = api.client.get(f"{path}/logs?format=text", headers=api.headers())
        same(text.headers.get("content-type", "").partition(";")[0], "text/plain", "Content-Type")
        expect(found[0]["text"] in text.text, "the download lacks a line")
        last_step = _get(api, f"{path}/timeline")["items"][-1]
        same((last_step["jobId"], last_step["to"]), (None, "PARTIAL"), "the last of its history")
    with checks.check("failed jobs are retried, and whoever has the last id sees it go on"):
        again = api.control(batch["batchId"], "retry-failed")
        same((again["status"], again["summary"]), ("PROCESSING", None), "status and summary")
        more = record(api, f"{path}/stream", last_id=last, seconds=patience)
        same((more.status, more.events[-1].name), (200, "complete"), "the status, and the last event")
        attempts = [job["attempt"] for event in more.events for job in event.data.get("jobs", ())]
        same(max(attempts), 2, "the attempt")
    with checks.check("a finished batch can be deleted, and is gone"):
        api.delete(batch["batchId"])
        same(api.client.get(path, headers=api.headers()).status_code, 404, "the status of what was deleted")


def _create_twice(api: Api) -> Json:
    body = {"kind": "rehearsal", "title": "smoke test, control", "jobs": _JOBS, "concurrency": 1}
    key = str(uuid4())
    replies = [
        api.client.post("/api/batches", json=body, headers=api.headers() | {"Idempotency-Key": key}) for _ in range(2)
    ]
    same([reply.status_code for reply in replies], [201, 200], "the statuses")
    first, second = (dict(reply.json()) for reply in replies)
    same(second["batchId"], first["batchId"], "the second's batchId")
    return first


def _await_idle(api: Api, path: str, patience: float) -> Json:
    """The batch, once nothing of it runs."""
    until = time.monotonic() + patience
    while (batch := _get(api, path))["counts"]["processing"]:
        expect(time.monotonic() < until, f"a job still runs after {patience:g} s")
        time.sleep(0.05)
    return batch


def _get(api: Api, path: str) -> Json:
    reply: httpx.Response = api.client.get(path, headers=api.headers())
    same(reply.status_code, 200, f"the status of {path.partition('?')[0]}")
    return dict(reply.json())
