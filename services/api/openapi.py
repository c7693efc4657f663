"""Every operation of api and stream in one table, and the OpenAPI document that follows from it."""

from typing import Any

import msgspec
from msgspec import Struct

from services.api.artifacts import ArtifactsQuery, DownloadQuery
from services.api.batches import BatchesQuery, JobsQuery
from services.api.body import NoFields
from services.api.idempotency import FORM, HEADER
from services.api.logs import LogsQuery
from services.api.pages import TYPES
from services.api.reception import PART
from services.api.replies import (
    CreatedBatch,
    JobArtifact,
    JobDetail,
    KindInfo,
    Reported,
    ReportToken,
    Ticket,
    Transition,
    Upload,
    Worker,
)
from services.api.report_fields import Reports
from services.api.submission import MoreJobs
from services.api.submission_schema import SUBMISSION
from shared.auth import ADMIN
from shared.errors import (
    Conflict,
    DiskFull,
    Forbidden,
    HeadwayError,
    Invalid,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
    all_errors,
)
from shared.events import Batch, Job, Line
from shared.web import watching
from shared.web.health import Liveness, Readiness
from shared.web.openapi import Content, Operation, Parameter, Reply, document
from shared.web.parameters import NoParameters, Page, Paging

_Errors = tuple[type[HeadwayError], ...]

_ASKING: _Errors = (Unauthenticated, Forbidden, Invalid, Unavailable)
_OF_ONE: _Errors = (*_ASKING, NotFound)
_BODY: _Errors = (TooLarge, UnsupportedMediaType)
_STORING: _Errors = (*_BODY, DiskFull)

_TEXT = {"type": "string"}
_FILE = Reply(304, "It is what `If-None-Match` says.", headers=("ETag",))


def _json(type_: Any) -> Content:
    return {"application/json": type_}


def _get(
    path: str,
    name: str,
    summary: str,
    reply: Any,
    *,
    tag: str,
    query: type[Struct] = NoParameters,
    errors: _Errors = _OF_ONE,
    scope: str = "read",
    by_ticket: bool = False,
) -> Operation:
    replies = (Reply(200, f"{summary}.", _json(reply)),)
    return Operation("GET", path, name, summary, tag, replies, errors, scope=scope, query=query, by_ticket=by_ticket)


def _change(
    path: str, name: str, summary: str, reply: Any, *, tag: str, errors: _Errors = (Conflict,), scope: str = "write"
) -> Operation:
    """A request that says all by its address."""
    return Operation(
        "POST",
        path,
        name,
        summary,
        tag,
        (Reply(202, "It is done, or was so already; this is how things are now.", _json(reply)),),
        (*_OF_ONE, *_STORING, *errors),
        scope=scope,
        query=NoParameters,
        body=_json(NoFields),
        body_needed=False,
    )


def _page(path: str, name: str, summary: str, content: Content, **more: Any) -> tuple[Operation, Operation]:
    """For everybody, by GET and HEAD."""
    replies = (Reply(200, f"{summary}.", content, ("ETag",)), _FILE)
    errors = (NotFound,) if "{" in path else ()
    return (
        Operation("GET", path, name, summary, "Pages", replies, errors, **more),
        Operation("HEAD", path, f"{name}Head", f"{summary}: the headers", "Pages", replies, errors, **more),
    )


VIEWER = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
"""Of all the files in the package that holds Swagger UI, those that `/docs` loads."""

_KEY = Parameter(
    HEADER,
    "The same key and body again do nothing more: what was done is the answer.",
    {"type": "string", "pattern": FORM.pattern},
)

_BATCH = "/api/batches/{id}"
_JOB = "/api/jobs/{id}"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST",
        "/api/batches",
        "createBatch",
        "Create a batch",
        "Batches",
        (
            Reply(201, "The batch, with addresses to watch it at.", _json(CreatedBatch), ("Location",)),
            Reply(
                200, f"The batch that this `{HEADER}` made before, as it is now.", _json(CreatedBatch), ("Location",)
            ),
        ),
        (*_ASKING, *_STORING, Conflict),
        scope="write",
        query=NoParameters,
        headers=(_KEY,),
        body=_json(SUBMISSION),
    ),
    _get(
        "/api/batches",
        "listBatches",
        "My batches, newest first",
        Page[Batch],
        tag="Batches",
        query=BatchesQuery,
        errors=_ASKING,
    ),
    _get(_BATCH, "getBatch", "A batch", Batch, tag="Batches"),
    _get(f"{_BATCH}/jobs", "listJobs", "A batch's jobs by position", Page[Job], tag="Batches", query=JobsQuery),
    Operation(
        "GET",
        f"{_BATCH}/logs",
        "readLogs",
        "A batch's log lines, oldest first",
        "Batches",
        (
            Reply(
                200,
                "A page of them, or with `format=text` all as a file; then `limit` and `cursor` have no meaning.",
                {**_json(Page[Line]), "text/plain": _TEXT},
                headers_of_some=("Content-Disposition",),
            ),
        ),
        _OF_ONE,
        scope="read",
        by_ticket=True,
        query=LogsQuery,
    ),
    _get(
        f"{_BATCH}/timeline",
        "readTimeline",
        "What happened to a batch and its jobs, oldest first",
        Page[Transition],
        tag="Batches",
        query=Paging,
    ),
    Operation(
        "POST",
        f"{_BATCH}/jobs",
        "addJobs",
        "Add jobs to a batch that is open",
        "Batches",
        (
            Reply(201, "They are behind those that were there; the batch as it is now.", _json(Batch)),
            Reply(200, f"This `{HEADER}` has added them before; the batch as it is now.", _json(Batch)),
        ),
        (*_OF_ONE, *_STORING, Conflict),
        scope="write",
        query=NoParameters,
        headers=(_KEY,),
        body=_json(MoreJobs),
    ),
    _change(f"{_BATCH}/close", "closeBatch", "Add no more jobs to a batch", Batch, tag="Batches"),
    _change(f"{_BATCH}/cancel", "cancelBatch", "Cancel a batch", Batch, tag="Batches"),
    _change(f"{_BATCH}/pause", "pauseBatch", "Pause a batch", Batch, tag="Batches"),
    _change(f"{_BATCH}/resume", "resumeBatch", "Let a paused batch go on", Batch, tag="Batches"),
    _change(f"{_BATCH}/retry-failed", "retryFailed", "Run a batch's failed jobs again", Batch, tag="Batches"),
    Operation(
        "DELETE",
        _BATCH,
        "deleteBatch",
        "Delete a finished batch",
        "Batches",
        (Reply(204, "It is gone, with its jobs, log lines and history."),),
        (*_OF_ONE, *_STORING, Conflict),
        scope="write",
        query=NoParameters,
    ),
    Operation(
        "POST",
        f"{_BATCH}/tickets",
        "issueTicket",
        "A ticket for watching a batch where no header can be sent",
        "Watching",
        (Reply(201, "The ticket.", _json(Ticket)),),
        (*_OF_ONE, *_BODY),
        scope="read",
        query=NoParameters,
        body=_json(NoFields),
        body_needed=False,
    ),
    Operation(
        "POST",
        f"{_BATCH}/report-tokens",
        "issueReportToken",
        "A token for reporting the progress of a batch's jobs",
        "Reports",
        (Reply(201, "The token.", _json(ReportToken)),),
        (*_OF_ONE, *_BODY, Conflict),
        scope="write",
        query=NoParameters,
        body=_json(NoFields),
        body_needed=False,
    ),
    Operation(
        "POST",
        f"{_JOB}/report",
        "report",
        "Report the progress of a job from elsewhere",
        "Reports",
        (Reply(200, "It is kept; this is how the job is now.", _json(Reported)),),
        (*_OF_ONE, *_STORING, Conflict),
        scope="report",
        query=NoParameters,
        body=_json(Reports),
    ),
    *watching.OPERATIONS,
    _get(_JOB, "getJob", "A job, with parameters, result and attempts", JobDetail, tag="Jobs"),
    _get(
        f"{_JOB}/artifacts",
        "listArtifacts",
        "The files that a job's handler gave, oldest first",
        Page[JobArtifact],
        tag="Jobs",
        query=ArtifactsQuery,
        by_ticket=True,
    ),
    Operation(
        "GET",
        f"{_JOB}/artifacts/{{artifact}}",
        "downloadArtifact",
        "Download one of them",
        "Jobs",
        (
            Reply(
                200,
                "The file, of the type that its handler gave it.",
                {"*/*": {"type": "string", "format": "binary"}},
                ("Content-Disposition",),
            ),
        ),
        _OF_ONE,
        scope="read",
        by_ticket=True,
        query=DownloadQuery,
    ),
    _change(f"{_JOB}/cancel", "cancelJob", "Cancel a job", JobDetail, tag="Jobs"),
    _change(f"{_JOB}/retry", "retryJob", "Run a failed or cancelled job again", JobDetail, tag="Jobs"),
    _get(
        "/api/kinds",
        "listKinds",
        "What kinds of job there are",
        Page[KindInfo],
        tag="Kinds",
        query=Paging,
        errors=_ASKING,
    ),
    Operation(
        "POST",
        "/api/uploads",
        "upload",
        "Upload a file",
        "Uploads",
        (Reply(201, "The file is kept; a job's `params` may refer to it.", _json(Upload)),),
        (*_ASKING, *_STORING),
        scope="write",
        query=NoParameters,
        body={
            "multipart/form-data": {
                "type": "object",
                "properties": {PART: {"type": "string", "format": "binary", "minLength": 1}},
                "required": [PART],
                "additionalProperties": False,
            }
        },
    ),
    _get(
        "/api/workers",
        "listWorkers",
        "The workers that there are, for those who run this installation",
        Page[Worker],
        tag="Workers",
        query=Paging,
        errors=_ASKING,
        scope=ADMIN,
    ),
    _change(
        "/api/workers/{id}/drain",
        "drainWorker",
        "Let a worker finish what it runs, and leave",
        Worker,
        tag="Workers",
        errors=(),
        scope=ADMIN,
    ),
    Operation(
        "GET",
        "/health/live",
        "live",
        "Whether the process answers",
        "Health",
        (Reply(200, "It does.", _json(Liveness)),),
    ),
    Operation(
        "GET",
        "/health/ready",
        "ready",
        "Whether the process can work",
        "Health",
        (
            Reply(200, "It can; and the state of each part that it leans on.", _json(Readiness)),
            Reply(503, "It cannot, or it is leaving.", _json(Readiness)),
        ),
    ),
    *_page("/", "home", "The start page", {"text/html": _TEXT}),
    *_page("/batches/{id}", "livePage", "A batch's live page; the ticket is in its fragment", {"text/html": _TEXT}),
    *_page(
        "/static/{path}",
        "static",
        "What the pages load",
        dict.fromkeys(sorted({*TYPES.values()}), _TEXT),
        variables={"path": _TEXT},
    ),
    *_page("/openapi.json", "openapi", "This document", _json({"type": "object"})),
    *_page("/docs", "docs", "This document, to be read by people", {"text/html": _TEXT}),
    *_page(
        "/docs/{name}",
        "docsFile",
        "What that page loads",
        dict.fromkeys(VIEWER.values(), _TEXT),
        variables={"name": {"enum": list(VIEWER)}},
    ),
    *_page(
        "/problems/{code}",
        "problem",
        "What a type of error means",
        {"text/html": _TEXT},
        variables={"code": {"enum": [error.code for error in all_errors()]}},
    ),
)

ABOUT = """Batches of jobs, and their live progress.

Fields are only ever added to what is said here: leave alone what you do not know. Unknown fields and query
parameters of requests are refused. Every error is `application/problem+json`. A request under `/api` without a valid
token gets 401 whatever else is wrong with it; a method that an address does not take gets 405; OPTIONS is answered
everywhere. Texts may not hold the character NUL, nor free-form JSON more than 64 levels of nesting."""

DOCUMENT = msgspec.json.encode(document(OPERATIONS, title="Headway", version="1.0", description=ABOUT))
