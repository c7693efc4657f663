"""Refusals: each with its status, and as problem+json."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from infra.cli.api import Api
from infra.cli.smoketest.checks import Checks, expect, same

_NOBODYS = UUID(int=0x7000 << 64 | 0x8 << 60)


def check_refusals(checks: Checks, api: Api, batch: dict[str, Any], other_token: str | None) -> None:
    path = f"/api/batches/{batch['batchId']}"
    ours = api.headers()
    with checks.check("without a token, or with a wrong one, the answer is 401"):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            _expect_problem(api, path, 401, headers)
            _expect_problem(api, f"{path}/stream", 401, headers)
    with checks.check("a batch that is not there is 404"):
        _expect_problem(api, f"/api/batches/{_NOBODYS}", 404, ours)
        _expect_problem(api, f"/api/batches/{_NOBODYS}/stream", 404, ours)
    with checks.check("a ticket opens one batch and nothing else"):
        ticket = batch["streamUrl"].partition("ticket=")[2]
        _expect_problem(api, f"{path}?ticket={ticket}", 401, {})
        _expect_problem(api, f"/api/stream?ticket={ticket}", 401, {})
        _expect_problem(api, f"/api/batches/{_NOBODYS}/stream?ticket={ticket}", 404, {})
    with checks.check("an unknown parameter is 422 and named"):
        for address in (f"{path}?surprise=1", f"{path}/stream?surprise=1"):
            problem = _expect_problem(api, address, 422, ours)
            same([error["path"] for error in problem["errors"]], ["surprise"], "the paths of the errors")
    with checks.check("a batch with mistakes is 422 and every mistake is named"):
        wrong = {"kind": "rehearsal", "title": "x", "colour": 1, "jobs": [{"name": "x", "params": {"steps": 0}}]}
        problem = _expect_problem(api, "/api/batches", 422, ours, wrong)
        same(
            {error["path"] for error in problem["errors"]},
            {"colour", "jobs[0].params.steps"},
            "the paths of the errors",
        )
    what = "a batch of somebody else is 404"
    if other_token is None:
        checks.leave_out(what, "needs --other-token")
        return
    with checks.check(what):
        theirs = {"Authorization": f"Bearer {other_token}"}
        _expect_problem(api, path, 404, theirs)
        _expect_problem(api, f"{path}/stream", 404, theirs)


def _expect_problem(
    api: Api, path: str, status: int, headers: Mapping[str, str], body: dict[str, Any] | None = None
) -> dict[str, Any]:
    response = api.client.request("GET" if body is None else "POST", path, headers=headers, json=body)
    same(response.status_code, status, f"the status of {path.partition('?')[0]}")
    same(response.headers.get("content-type", "").partition(";")[0], "application/problem+json", "Content-Type")
    problem = response.json()
    same(problem["status"], status, "`status` in the problem")
    expect(problem["type"].startswith("/problems/") and problem["title"], f"its type is {problem['type']!r}")
    return dict(problem)
