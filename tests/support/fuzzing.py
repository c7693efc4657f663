"""Hooks for schemathesis, which loads this file by itself: what it makes up is led to things that there are.

The ids of those stand in FUZZ_IDS, as JSON: {"batches": […], "jobs": […], "uploads": […], "workers": […],
"artifacts": ["<job>/<artifact>", …]}.
"""

import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import schemathesis

from shared.events import EVENTS, FEED_EVENTS, stamp
from tests.support.sse import Parser

_KNOWN: dict[str, list[str]] = json.loads(os.environ["FUZZ_IDS"])

_AHEAD = {
    name: stamp(datetime.now(UTC) + timedelta(hours=hours)) for name, hours in (("runAfter", 1), ("expiresAt", 2))
}

_ADD = "POST /api/batches/{id}/jobs"

_OURS = 7
"""The version of the UUIDs that we give out: such a one is no invention, and stays."""


def _led(made_up: Any, known: list[str], strangers: int) -> Any:
    """One of those known; one in so many stays a stranger's (0: none does), and what is no id stays as it is."""
    try:
        id_ = UUID(made_up)
    except (ValueError, AttributeError, TypeError):
        return made_up
    if str(id_) != made_up or id_.version == _OURS or (strangers and id_.int % strangers == 0):
        return made_up
    return known[id_.int % len(known)]


def _put_in_order(body: dict[str, Any]) -> None:
    """Reports are numbered, and end with the end of their run, which the document says in words."""
    reports = body.get("reports")
    good = isinstance(reports, list) and all(isinstance(report, dict) for report in reports)
    if not good or not all(_is_number(report.get("sequence")) for report in reports):
        return
    for number, report in enumerate(reports, start=1):
        report["sequence"] = number
        if report.get("type") in ("complete", "fail", "cancelled"):
            del reports[number:]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and value >= 1 and value == int(value)


def _put_ahead(body: dict[str, Any]) -> None:
    """What is planned lies ahead, after a batch that there is; that too the document says in words."""
    for name, moment in _AHEAD.items():
        try:
            msgspec.convert(body.get(name), datetime)
        except msgspec.ValidationError:
            continue
        body[name] = moment
    if "after" in body:
        body["after"] = _led(body["after"], _KNOWN["batches"], 0)
    if body.get("after") is None and body.get("afterAny") is True:
        body["afterAny"] = False
    if body.get("open") is True and body.get("kind") != "rehearsal":
        body["open"] = False  # what is added to it later is a rehearsal


def _fit(job: dict[str, Any], *, added: bool) -> None:
    """Its parameters: if it is `added` to a batch they are of that one's kind, which the document cannot know."""
    params = job["params"]
    if added:
        params.clear()
    elif "uploadId" in params:
        params["uploadId"] = _led(params["uploadId"], _KNOWN["uploads"], 0)


def _put_in_place(case: Any, variables: dict[str, Any]) -> None:
    """Ids in the path lead to what there is; a stranger's are one in five."""
    if "artifact" in variables and sum(variables["artifact"].encode()) % 5:
        known = _KNOWN["artifacts"]
        variables["id"], _, variables["artifact"] = known[sum(variables["id"].encode()) % len(known)].partition("/")
    elif "id" in variables:
        kind = next((kind for kind in ("jobs", "workers") if case.path.startswith(f"/api/{kind}/")), "batches")
        known = _KNOWN[kind]
        if case.operation.label != _ADD:
            variables["id"] = _led(variables["id"], known, 5)
        elif variables["id"] not in known:  # of those few that take jobs no stranger's, and none of another kind
            variables["id"] = known[sum(variables["id"].encode()) % len(known)]


_ARRANGED = {"/api/batches": _put_ahead, "/api/jobs/{id}/report": _put_in_order}


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    variables = case.path_parameters or {}
    _put_in_place(case, variables)
    if "path" in variables:
        variables["path"] = "page.css"
    if case.query and isinstance(case.query.get("cursor"), str):
        del case.query["cursor"]  # opaque: one that is made up is none
    if case.query and case.query.get("format") == "text":
        case.query.pop("limit", None)  # a download is whole, which the document says in words
    if isinstance(case.body, dict) and case.path in _ARRANGED:
        _ARRANGED[case.path](case.body)
    jobs = case.body.get("jobs") if isinstance(case.body, dict) else None
    for job in jobs if isinstance(jobs, list) else []:
        if isinstance(job, dict) and isinstance(job.get("params"), dict):
            _fit(job, added=case.path.endswith("/jobs"))


@schemathesis.check
def events_are_what_they_should_be(_context: Any, response: Any, _case: Any) -> None:
    """The `data` of each; their outer form the document says by itself."""
    if response.headers.get("content-type") == ["text/event-stream"]:
        for event in Parser().feed(response.content):
            forms = FEED_EVENTS.get(event.name) or (EVENTS[event.name],)
            msgspec.convert(event.data, forms[-1] if "deleted" in event.data else forms[0])
