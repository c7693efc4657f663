"""What a client submits as a batch: read, checked against its kind, and made ready to be stored."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta, Raw, Struct, ValidationError

from services.api.body import decode_json, too_deep
from shared.creation import NewJob
from shared.errors import FieldError
from shared.events import encode
from shared.kinds import KINDS
from shared.kinds.kind import Kind
from shared.kinds.mask import MOST_PARTS, parts
from shared.kinds.secret import has_secrets, redact, secret_values
from shared.settings import Settings
from shared.web.validation import DEEPEST, MOST_ERRORS, explain, invalid, unstorable

JobName = Annotated[str, Meta(max_length=200, extra_json_schema={"pattern": "^[^\\u0000]*$"})]

MOST_JOBS = 10_000
"""Of a batch, however they came to it."""

JOBS = Meta(min_length=1, max_length=MOST_JOBS)
JOBS_OF_OPEN = Meta(max_length=MOST_JOBS)

FURTHEST = timedelta(days=366)
"""How far ahead a batch may be planned."""

Moment = Annotated[datetime, Meta(tz=True)]
"""RFC 3339, with any offset."""


class JobFields(Struct, forbid_unknown_fields=True):
    name: JobName
    params: dict[str, Any]
    """Of the kind's own form, which is looked at once the kind is known."""


class BatchFields(Struct, rename="camel", forbid_unknown_fields=True):
    """The body of `POST /api/batches`."""

    kind: str
    title: JobName
    jobs: Annotated[list[JobFields], JOBS_OF_OPEN] = []
    """One at least, unless it is `open`."""
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    concurrency: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    metadata: dict[str, Any] = {}
    open: bool = False
    """There may be more jobs later: the batch does not end before it is closed."""
    run_after: Moment | None = None
    """It does not begin before; in the past: at once."""
    after: UUID | None = None
    """It begins when that batch has completed, and is cancelled if that one ends otherwise."""
    after_any: bool = False
    """It begins however that batch ends."""
    expires_at: Moment | None = None
    """It is cancelled if it has not ended by then."""


class MoreJobs(Struct, forbid_unknown_fields=True):
    """The body of `POST /api/batches/{id}/jobs`."""

    jobs: Annotated[list[JobFields], JOBS]


_Given = tuple[int, str, dict[str, Any]]
"""A job's number, name and parameters."""


class Submission(Struct):
    """A batch, or more jobs of one, that may be stored, if `errors` is empty and its owner has what it names."""

    kind: Kind | None
    fields: BatchFields | None
    """None: it is more jobs of a batch that there is, or something is wrong."""
    jobs: list[NewJob]
    uploads: list[tuple[str, UUID]]
    """The uploads that the jobs name, each with its path."""
    errors: list[FieldError]
    after: UUID | None = None
    """The batch that is to come before."""

    def checked(self) -> tuple[Kind, BatchFields]:
        """To be called once `refuse_missing_uploads` let it pass: with neither, there are errors."""
        if self.kind is None or self.fields is None:
            raise invalid(self.errors)
        return self.kind, self.fields


def read_submission(body: bytes, settings: Settings) -> Submission:
    """Never refuses for a wrong field: the caller adds what the database knows, then names all of them together.

    Raises Malformed.
    """
    try:
        return _read(decode_json(body), settings)
    except RecursionError:
        # it could be decoded with what the stack had left, but not be looked at
        raise too_deep() from None


def read_more_jobs(body: bytes, kind: Kind, settings: Settings) -> Submission:
    """The same for jobs that are added to a batch."""
    try:
        value = decode_json(body)
        errors: list[FieldError] = []
        try:
            given = _given(msgspec.convert(value, MoreJobs).jobs)
        except ValidationError as error:
            errors = explain(error, value, MoreJobs, "")
            given = _salvaged_jobs(value) if isinstance(value, dict) else []
        return _with_jobs(Submission(kind, None, [], [], errors), given, settings)
    except RecursionError:
        raise too_deep() from None


def _read(value: Any, settings: Settings) -> Submission:
    fields: BatchFields | None = None
    errors: list[FieldError] = []
    try:
        fields = msgspec.convert(value, BatchFields)
        kind, given, after = KINDS.get(fields.kind), _given(fields.jobs), fields.after
    except ValidationError as error:
        errors = explain(error, value, BatchFields, "")
        kind, given, after = _salvage(value)
    if kind is None and not any(error.path in {"", "kind"} for error in errors):
        errors.append(FieldError("kind", f"expected one of {', '.join(sorted(KINDS))}"))
    if isinstance(value, dict):
        errors += wrong_texts(value, settings)
        errors += wrong_times(value)
        errors += _no_jobs(value)
    return _with_jobs(Submission(kind, fields, [], [], errors, after), given, settings)


def _given(jobs: Iterable[JobFields]) -> list[_Given]:
    return [(number, job.name, job.params) for number, job in enumerate(jobs)]


def _with_jobs(submission: Submission, given: list[_Given], settings: Settings) -> Submission:
    for number, name, params in given:
        if len(submission.errors) > MOST_ERRORS:
            break
        _add_job(submission, f"jobs[{number}]", name, params, settings)
    return submission


def refuse_missing_uploads(submission: Submission, found: set[UUID]) -> None:
    """Raises Invalid with everything that is wrong, the uploads that are not among those `found` included."""
    submission.errors += [
        FieldError(path, "there is no such upload") for path, upload in submission.uploads if upload not in found
    ]
    if submission.errors:
        raise invalid(submission.errors)


def _add_job(submission: Submission, path: str, name: str, params: dict[str, Any], settings: Settings) -> None:
    text = encode(params)
    where = f"{path}.params"
    if "\0" in name:
        submission.errors += unstorable(name, f"{path}.name")
    if len(text) > settings.max_params:
        submission.errors.append(FieldError(where, f"is longer than {settings.max_params} bytes"))
    elif _suspicious(text) and (errors := _unstorable_params(submission.kind, params, where)):
        submission.errors += errors
    elif submission.kind is not None and _too_secret(submission.kind, params):
        submission.errors.append(
            FieldError(where, f"holds more than {MOST_PARTS} secrets, or lines and pieces of them")
        )
    elif submission.kind is not None:
        try:
            typed = msgspec.convert(params, submission.kind.params, str_keys=True)
        except ValidationError as error:
            submission.errors += explain(error, params, submission.kind.params, where)
            return
        except Exception as error:
            if not has_secrets(submission.kind.params):
                raise
            # a mistake in the kind's own rules, whose words would come to the log
            raise RuntimeError(f"the rules of {submission.kind.name} failed: {type(error).__name__}") from None
        submission.uploads += [(f"{where}.{field}", upload) for field, upload in submission.kind.uploads(typed)]
    submission.jobs.append(NewJob(name, Raw(text)))


def _unstorable_params(kind: Kind | None, params: dict[str, Any], where: str) -> list[FieldError]:
    """Without the places within secrets, which are made of the client's own field names. All may be, of no kind."""
    if not any(unstorable(params, where)):
        return []
    named = list(unstorable(redact(params, None if kind is None else kind.params), where))
    return named or [FieldError(where, "holds the character NUL, or is nested too deeply")]


def _too_secret(kind: Kind, params: dict[str, Any]) -> bool:
    values = secret_values(params, kind.params)
    return bool(values) and len(parts(values)) > MOST_PARTS


def _salvage(value: Any) -> tuple[Kind | None, list[_Given], UUID | None]:
    """What can still be checked of a body whose outer form is wrong."""
    if not isinstance(value, dict):
        return None, [], None
    kind = value.get("kind")
    after = _converted(value.get("after"), UUID)
    return KINDS.get(kind) if isinstance(kind, str) else None, _salvaged_jobs(value), after


def _salvaged_jobs(value: dict[str, Any]) -> list[_Given]:
    jobs = value.get("jobs")
    return [
        (number, name if isinstance(name := job.get("name"), str) else "", job["params"])
        for number, job in enumerate(jobs if isinstance(jobs, list) else [])
        if isinstance(job, dict) and isinstance(job.get("params"), dict)
    ]


def _converted(value: Any, type_: Any) -> Any:
    """None for what is not of the type, which has been said elsewhere."""
    try:
        return msgspec.convert(value, type_)
    except ValidationError:
        return None


def _no_jobs(value: dict[str, Any]) -> Iterator[FieldError]:
    if value.get("open") is not True and value.get("jobs", []) == []:
        yield FieldError("jobs", "expected array of length >= 1" if "jobs" in value else "is missing")


def still_ahead(moment: datetime | None) -> datetime | None:
    """The moment, unless it is over: then there is nothing to wait for."""
    return moment if moment is not None and moment > datetime.now(UTC) else None


def wrong_times(value: Mapping[str, Any]) -> Iterator[FieldError]:
    """What makes no sense now, of the batch itself."""
    now = datetime.now(UTC)
    for name in ("runAfter", "expiresAt"):
        moment: datetime | None = _converted(value.get(name), Moment)
        if moment is not None and moment - now > FURTHEST:
            yield FieldError(name, f"lies more than {FURTHEST.days} days ahead")
        elif name == "expiresAt" and moment is not None and moment <= now:
            yield FieldError(name, "lies in the past")
    if value.get("afterAny") is True and value.get("after") is None:
        yield FieldError("afterAny", "says nothing without after, the batch to follow")


def wrong_texts(value: dict[str, Any], settings: Settings) -> Iterator[FieldError]:
    """What PostgreSQL could not store, of the batch itself."""
    if isinstance(title := value.get("title"), str):
        yield from unstorable(title, "title")
    if isinstance(metadata := value.get("metadata"), dict):
        if len(encode(metadata)) > settings.max_metadata:
            yield FieldError("metadata", f"is longer than {settings.max_metadata} bytes")
        else:
            yield from unstorable(metadata, "metadata")


def _suspicious(text: bytes) -> bool:
    """Whether a closer look is needed: at 10,000 jobs it would take longer than storing them."""
    return b"\\u0000" in text or text.count(b"{") + text.count(b"[") > DEEPEST
