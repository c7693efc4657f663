"""What api says beyond the structs that streams send as well."""

from typing import Any

from msgspec import Struct, structs

from shared.events import Batch, Failure, Id, Job, Time
from shared.jobs import BatchStatus


class CreatedBatch(Batch, kw_only=True):
    stream_url: str
    web_url: str


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


class Upload(Struct, rename="camel"):
    upload_id: Id
    name: str
    size: int
    content_type: str
    expires_at: Time


class Transition(Struct, rename={"job_id": "jobId", "old": "from", "new": "to"}):
    """`job_id` null: of the batch itself. `from` null: it was created."""

    at: Time
    job_id: Id | None
    old: BatchStatus | None
    new: BatchStatus
    attempt: int | None
    reason: str


def created(batch: Batch, stream_url: str, web_url: str) -> CreatedBatch:
    return CreatedBatch(**structs.asdict(batch), stream_url=stream_url, web_url=web_url)


def detailed(job: Job, params: dict[str, Any], result: Any, attempts: list[Attempt]) -> JobDetail:
    return JobDetail(**structs.asdict(job), params=params, result=result, attempts=attempts)
