"""What the stream service is asked and how it answers: its queries, and its part of the OpenAPI document."""

from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from shared.errors import (
    Forbidden,
    HeadwayError,
    Invalid,
    NotFound,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from shared.event_ids import LOGS_MAX, LONGEST_ID, JobsFilter
from shared.events import EVENTS, FEED_EVENTS, Changes
from shared.web.conversation import MESSAGES, SocketQuery
from shared.web.openapi import Operation, Parameter, Reply

_LAST_EVENT_ID = Parameter("Last-Event-ID", "The id to go on from; counts before `lastEventId`.", {"type": "string"})

_ERRORS: tuple[type[HeadwayError], ...] = (
    Unauthenticated,
    Forbidden,
    NotFound,
    Invalid,
    TooManyRequests,
    Unavailable,
)


WAIT_MAX = 30
"""Seconds for which a request for changes may be held; most proxies give up after 60."""


class StreamQuery(Struct, rename="camel", forbid_unknown_fields=True):
    jobs: Annotated[JobsFilter, Meta(description="Which jobs the first snapshot shows.")] = "all"
    logs: Annotated[
        int, Meta(ge=0, le=LOGS_MAX, description="How many of the last log lines come first; 0: none at all, ever.")
    ] = LOGS_MAX
    last_event_id: Annotated[str, Meta(description="The id to go on from.")] = ""
    ticket: str = ""


class ChangesQuery(Struct, forbid_unknown_fields=True):
    since: Annotated[str, Meta(description="The event id that the last reply, or a stream, ended with; or 0.")] = "0"
    wait: Annotated[
        float, Meta(ge=0, le=WAIT_MAX, description="How many seconds the reply may take while there is nothing new.")
    ] = 0
    jobs: Annotated[JobsFilter, Meta(description="Which jobs a first reply shows.")] = "all"
    logs: Annotated[
        int, Meta(ge=0, le=LOGS_MAX, description="How many of the last log lines come first; 0: none at all, ever.")
    ] = LOGS_MAX
    ticket: str = ""


def _event(name: str, *data: type[Struct], ids: bool) -> dict[str, Any]:
    content = data[0] if len(data) == 1 else {"anyOf": list(data)}
    said = {
        "event": {"const": name},
        "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": content},
    }
    if ids:  # any event may show it: it is the last one that came
        said["id"] = {"type": "string", "maxLength": LONGEST_ID}
    needed = ["event", "data", *(("id",) if name in _WITH_ID else ())]
    return {"type": "object", "properties": said, "required": needed, "additionalProperties": False}


_WITH_ID = {"complete", "reset"}


def _events(*events: dict[str, Any]) -> Reply:
    """OpenAPI 3.1 has no word for a sequence of events; by custom the schema is that of each of them."""
    return Reply(
        200,
        "Server-Sent Events; the schema is that of one event. Also when there are too many streams or the server is "
        "leaving, to those who accept events: then `retry:`, `error`, and the end.",
        {"text/event-stream": {"oneOf": list(events)}},
    )


_EVENTS = _events(*(_event(name, data, ids=True) for name, data in EVENTS.items()))
_FEED = _events(*(_event(name, *data, ids=False) for name, data in FEED_EVENTS.items()))
_NO_MORE = Reply(204, "The batch is finished, and the reader has all of it.")

_CHANGES = Reply(200, "What is new, or that nothing is.", {"application/json": Changes})

_CONVERSATION = Reply(
    101,
    "A WebSocket. The schema is that of one message, in either direction: `auth`, `subscribe` and `unsubscribe` are "
    "the client's. A token may also come in the first message.",
    {"application/json": {"anyOf": list(MESSAGES)}},
)

_ALWAYS_THERE = tuple(error for error in _ERRORS if error is not NotFound)


def _with_probe(operation: Operation, name: str, summary: str) -> tuple[Operation, Operation]:
    """It, and the HEAD request that is told its headers at once."""
    return operation, replace(operation, method="HEAD", name=name, summary=summary)


OPERATIONS = (
    Operation(
        "GET",
        "/api/ws",
        "converse",
        "Watch several things over one WebSocket",
        tag="Watching",
        scope="read",
        by_ticket=True,
        query=SocketQuery,
        replies=(_CONVERSATION,),
        errors=_ALWAYS_THERE,
    ),
    *_with_probe(
        Operation(
            "GET",
            "/api/stream",
            "watchBatches",
            "Watch all your batches",
            tag="Watching",
            scope="read",
            replies=(_FEED,),
            errors=_ALWAYS_THERE,
        ),
        "probeBatches",
        "Whether your batches can be watched",
    ),
    *_with_probe(
        Operation(
            "GET",
            "/api/batches/{id}/changes",
            "readChanges",
            "What has changed since an event id, waited for",
            tag="Watching",
            scope="read",
            by_ticket=True,
            query=ChangesQuery,
            replies=(_CHANGES,),
            errors=_ERRORS,
        ),
        "probeChanges",
        "What has changed: the headers, at once",
    ),
    *_with_probe(
        Operation(
            "GET",
            "/api/batches/{id}/stream",
            "watchBatch",
            "Watch a batch",
            tag="Watching",
            scope="read",
            by_ticket=True,
            query=StreamQuery,
            headers=(_LAST_EVENT_ID,),
            replies=(_EVENTS, _NO_MORE),
            errors=_ERRORS,
        ),
        "probeStream",
        "Whether a batch can be watched",
    ),
)
