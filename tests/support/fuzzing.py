"""Hooks for schemathesis, which loads this file by itself: what it makes up is led to things that there are.

The ids of those stand in FUZZ_IDS, as JSON: {"batches": […], "jobs": […], "uploads": […]}.
"""

import json
import os
from typing import Any
from uuid import UUID

import msgspec
import schemathesis

from shared.events import EVENTS, FEED_EVENTS
from tests.support.sse import Parser

_KNOWN: dict[str, list[str]] = json.loads(os.environ["FUZZ_IDS"])

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


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    variables = case.path_parameters or {}
    if "id" in variables:
        kind = "jobs" if case.path.startswith("/api/jobs") else "batches"
        variables["id"] = _led(variables["id"], _KNOWN[kind], 5)
    if "path" in variables:
        variables["path"] = "page.css"
    if case.query and isinstance(case.query.get("cursor"), str):
        del case.query["cursor"]  # opaque: one that is made up is none
    if case.query and case.query.get("format") == "text":
        case.query.pop("limit", None)  # a download is whole, which the document says in words
    jobs = case.body.get("jobs") if isinstance(case.body, dict) else None
    for job in jobs if isinstance(jobs, list) else []:
        params = job.get("params") if isinstance(job, dict) else None
        if isinstance(params, dict) and "uploadId" in params:
            params["uploadId"] = _led(params["uploadId"], _KNOWN["uploads"], 0)


@schemathesis.check
def events_are_what_they_should_be(_context: Any, response: Any, _case: Any) -> None:
    """The `data` of each; their outer form the document says by itself."""
    if response.headers.get("content-type") == ["text/event-stream"]:
        for event in Parser().feed(response.content):
            forms = FEED_EVENTS.get(event.name) or (EVENTS[event.name],)
            msgspec.convert(event.data, forms[-1] if "deleted" in event.data else forms[0])
