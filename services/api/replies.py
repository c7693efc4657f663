"""What api says beyond the structs that streams send as well."""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, structs

from shared.events import Artifact, Batch, Failure, Id, Job, Time
from shared.jobs import BatchStatus, JobStatus


class CreatedBatch(Batch, kw_only=True):
    stream_url: str
    web_url: str
    report_token: str | UnsetType = UNSET
    """Of the kind `external` only."""


class Attempt(Struct, rename="camel"):
    """`finished_at` null: it runs. `error` null: it runs, completed, was cancelled or given back."""

    attempt: int
    started_at: Time
    finished_at: Time | None = None
    error: Failure | None = None


class JobDetail(Job, kw_only=True):
    params: dict[str, Any]
    """As they were given, but for secrets, in whose place stands `•••`."""
    result: Any
    attempts: list[Attempt]


class KindInfo(Struct, rename="camel"):
    kind: str
    title: str
    schema: dict[str, Any]
    """JSON Schema of a job's `params`."""
    max_attempts: int
    time_limit_seconds: float


class Ticket(Struct, rename="camel"):
    ticket: str
    stream_url: str
    expires_at: Time


class ReportToken(Struct, rename="camel"):
    token: str
    expires_at: Time


class Reported(Struct, rename="camel"):
    """How things are after the last report that was accepted, number `sequence` of its run."""

    job_id: Id
    batch_id: Id
    run: Id
    sequence: int
    status: JobStatus
    attempt: int
    cancel_requested: bool
    paused: bool


class Upload(Struct, rename="camel"):
    upload_id: Id
    name: str
    size: int
    content_type: str
    expires_at: Time


class JobArtifact(Artifact, kw_only=True):
    """`attempt`: the one that gave it."""

    attempt: int
    created_at: Time


class Transition(Struct, rename={"job_id": "jobId", "old": "from", "new": "to"}):
    """`job_id` null: of the batch itself. `from` null: it was created."""

    at: Time
    job_id: Id | None
    old: BatchStatus | None
    new: BatchStatus
    attempt: int | None
    reason: str


class WorkerJob(Struct, rename="camel"):
    """What a worker runs: no name nor parameters, which are its owner's."""

    job_id: Id
    batch_id: Id
    kind: str
    attempt: int
    started_at: Time


class Worker(Struct, rename="camel"):
    """One worker process. `memory` in bytes; `abandoned` of its `threads` are held by handlers that do not end."""

    id: Id
    queue: str
    kinds: list[str]
    host: str
    pid: int
    version: str
    threads: int
    running: int
    abandoned: int
    memory: int
    status: Literal["working", "draining", "lost"]
    jobs: list[WorkerJob]
    started_at: Time
    seen_at: Time


def created(batch: Batch, stream_url: str, web_url: str, report_token: str | UnsetType) -> CreatedBatch:
    return CreatedBatch(**structs.asdict(batch), stream_url=stream_url, web_url=web_url, report_token=report_token)


def detailed(job: Job, params: dict[str, Any], result: Any, attempts: list[Attempt]) -> JobDetail:
    return JobDetail(**structs.asdict(job), params=params, result=result, attempts=attempts)
