"""The wire: what api, stream and Redis frames say, in the words of docs/protocol.md."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from shared.event_ids import LONGEST_ID
from shared.jobs import BatchStatus, Counts, JobStatus
from shared.updates import Items, Level

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""RFC 3339 in UTC with milliseconds; see `stamp`."""

Id = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]


def stamp(moment: datetime) -> Time:
    """The wire form of a time: UTC, milliseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


class Failure(Struct, frozen=True):
    """Why a job failed: `code` for programs, `message` for people."""

    code: str
    message: str


class Waiting(Struct, rename="camel", omit_defaults=True):
    reason: Literal["paused", "no_worker", "behind", "delayed", "limited"]
    ahead: int | None = None
    until: Time | None = None
    after: Id | None = None
    """The batch that is waited for."""


class Batch(Struct, rename="camel"):
    batch_id: Id
    kind: str
    title: str
    owner: str
    status: BatchStatus
    version: int
    progress: int
    counts: Counts
    waiting: Waiting | None
    eta_seconds: float | None
    cancel_requested: bool
    metadata: dict[str, Any]
    summary: Any
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    # from here on what was added later: a process of an older version does not say it
    eta_low: float | None = None
    eta_high: float | None = None
    open: bool = False
    run_after: Time | None = None
    after: Id | None = None
    expires_at: Time | None = None


class Artifact(Struct, rename="camel"):
    """A file that a job's handler gave. `size` in bytes."""

    id: Id
    name: str
    size: int
    content_type: str


class Job(Struct, rename="camel"):
    id: Id
    position: int
    name: str
    status: JobStatus
    progress: int
    step: str | None
    message: str | None
    items: Items | None
    attempt: int
    cancel_requested: bool
    run_after: Time | None
    error: Failure | None
    started_at: Time | None
    finished_at: Time | None
    metadata: dict[str, Any] = {}
    artifacts: list[Artifact] | UnsetType = UNSET
    """Not there: there are none."""


class Line(Struct, rename="camel"):
    """One log line; `n` counts from 1 for each job and runs on across attempts."""

    job_id: Id
    attempt: int
    n: int
    at: Time
    level: Level
    text: str


class Delta(Struct, rename="camel"):
    """What one version changed. `line_count` is how many log lines the whole batch has at that version."""

    batch: Batch
    jobs: list[Job]
    lines: list[Line]
    line_count: int


class Truncated(Struct, rename="camel"):
    """How many older lines were left out, and where all of them can be read."""

    count: int
    logs_url: str


EventName = Literal["progress", "log", "complete", "ping", "reset", "timeout", "error"]
FeedEventName = Literal["batches", "batch"]
"""Of a feed, besides `ping`, `timeout` and `error`."""

ResetReason = Literal["epoch", "ahead", "invalid_id", "filters"]
TimeoutReason = Literal["lifetime", "token_expired"]
ErrorCode = Literal["too_many_connections", "draining", "overloaded", "deleted", "internal"]
SocketErrorCode = Literal[
    ErrorCode,
    "unauthenticated",
    "forbidden",
    "not_found",
    "malformed",
    "invalid",
    "conflict",
    "too_many_subscriptions",
    "too_many_messages",
]
"""Of the `error` of a WebSocket."""


class Batches(Struct):
    """The data of `batches`, with which a feed begins: active and latest ones, newest first."""

    items: list[Batch]


class BatchDeleted(Struct, rename="camel"):
    """The data of `batch` when there is nothing more to tell of it."""

    batch_id: Id
    deleted: bool = True
    """Always."""


class BatchChange(Batch, kw_only=True):
    """The data of `progress` and `complete`: the batch as it is, and those of its jobs that changed."""

    jobs: list[Job]


class LogLines(Struct, rename="camel"):
    """The data of `log`."""

    batch_id: Id
    lines: list[Line]
    truncated: Truncated | None


class Changes(Struct):
    """What `changes` answers: all that a stream would have told since an id, in one piece."""

    id: Annotated[str, Meta(max_length=LONGEST_ID)]
    version: int
    reset: bool
    reason: ResetReason | None
    done: bool
    batch: Batch
    jobs: list[Job]
    lines: list[Line]
    truncated: Truncated | None


class Ping(Struct):
    """The data of `ping`: milliseconds since 1970."""

    timestamp: int


class Reset(Struct):
    """The data of `reset`."""

    reason: ResetReason


class Timeout(Struct):
    """The data of `timeout`."""

    reason: TimeoutReason


class StreamError(Struct):
    """The data of `error`."""

    code: ErrorCode
    message: str
    retryable: bool


EVENTS: dict[EventName, type[Struct]] = {
    "progress": BatchChange,
    "log": LogLines,
    "complete": BatchChange,
    "ping": Ping,
    "reset": Reset,
    "timeout": Timeout,
    "error": StreamError,
}

FEED_EVENTS: dict[str, tuple[type[Struct], ...]] = {
    "batches": (Batches,),
    "batch": (Batch, BatchDeleted),
    "ping": (Ping,),
    "timeout": (Timeout,),
    "error": (StreamError,),
}
"""Of a feed: the data of each is one of these."""

encode = msgspec.json.Encoder().encode


def sse(event: EventName | FeedEventName, data: bytes, event_id: str | None = None) -> bytes:
    """One Server-Sent Event. `data` is JSON, which never holds a raw line break."""
    head = f"event: {event}\n" if event_id is None else f"event: {event}\nid: {event_id}\n"
    return b"%bdata: %b\n\n" % (head.encode(), data)


def sse_retry(milliseconds: int) -> bytes:
    """The line that tells an EventSource how long to wait before it connects again."""
    return b"retry: %d\n\n" % milliseconds
