"""Work that is done elsewhere: what a program reports of it is seen live."""

from typing import Any
from uuid import uuid4

from infra.cli.api import Api
from infra.cli.smoketest.checks import Checks, same
from infra.cli.smoketest.recording import record
from infra.cli.sse import Event

_TOLD: list[list[dict[str, Any]]] = [
    [{"type": "start"}, {"type": "step", "name": "elsewhere"}],
    [{"type": "progress", "done": 1, "total": 2}],
    [{"type": "progress", "done": 2}, {"type": "complete", "result": "done"}],
]
"""Requests, each sent once the one before was seen."""


def check_reports(checks: Checks, api: Api, patience: float) -> None:
    """`patience` in seconds. The batch is deleted in the end."""
    with checks.check("what a program elsewhere reports, with a token for nothing else, is seen live"):
        submission = {"kind": "external", "title": "smoke test, reports", "jobs": [{"name": "elsewhere", "params": {}}]}
        batch = api.create_batch(submission)
        path = f"/api/batches/{batch['batchId']}"
        program = {"Authorization": f"Bearer {batch['reportToken']}"}
        job = api.client.get(f"{path}/jobs", headers=program).json()["items"][0]
        run, waiting, number = str(uuid4()), list(_TOLD), 0

        def seen(event: Event) -> bool:
            nonlocal number
            if event.id is None or not waiting:
                return False
            reports = [{"sequence": number + n} | report for n, report in enumerate(waiting.pop(0), start=1)]
            number += len(reports)
            body = {"run": run, "reports": reports}
            reply = api.client.post(f"/api/jobs/{job['id']}/report", json=body, headers=program)
            same((reply.status_code, reply.json().get("sequence")), (200, number), "the answer to a report")
            return False

        watched = record(api, f"{path}/stream", until=seen, seconds=patience)
        same((watched.events[-1].name, watched.events[-1].data["status"]), ("complete", "COMPLETED"), "the end")
        shown = [job["items"] for event in watched.events for job in event.data.get("jobs", ()) if job["items"]]
        same([items["done"] for items in shown], [1, 2], "the items that were seen")
        api.delete(batch["batchId"])
