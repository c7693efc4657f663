"""A program elsewhere that reports one job, as simply as can be: what it says is sent at once."""

from typing import Any
from uuid import uuid4

import httpx

from tests.support.web import decoded


def external(jobs: int = 1, params: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """The body of `POST /api/batches` for so many equal jobs that are reported from elsewhere."""
    given = [{"name": f"job {number}", "params": params or {}} for number in range(jobs)]
    return {"kind": "external", "title": "work elsewhere", "jobs": given} | fields


def reporter(address: str, token: str) -> httpx.Client:
    """Somebody with this token."""
    return httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=20, trust_env=False)


class Run:
    """One attempt at a job. Reports are numbered from 1."""

    def __init__(self, api: httpx.Client, job_id: object) -> None:
        self.id = str(uuid4())
        self.job_id = str(job_id)
        self.sent = 0
        self._api = api

    def post(self, *reports: dict[str, Any]) -> httpx.Response:
        """The next reports."""
        numbered = [{"sequence": self.sent + number} | report for number, report in enumerate(reports, start=1)]
        self.sent += len(reports)
        return self.send(numbered)

    def send(self, reports: Any, **more: Any) -> httpx.Response:
        """As they are."""
        return self._api.post(f"/api/jobs/{self.job_id}/report", json={"run": self.id, "reports": reports} | more)

    def say(self, type_: str, **fields: Any) -> dict[str, Any]:
        """One report, which must be accepted; the reply."""
        return self.tell({"type": type_} | fields)

    def tell(self, *reports: dict[str, Any]) -> dict[str, Any]:
        """Several in one request, which must be accepted; the reply."""
        reply = self.post(*reports)
        assert reply.status_code == 200, reply.text
        return decoded(reply)
