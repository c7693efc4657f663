"""The usual submission, all of which is as it should be, read in one go: no job becomes a dict and JSON again."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Raw, Struct, field, inspect

from services.api.submission import (
    JOBS,
    JOBS_OF_OPEN,
    BatchFields,
    JobName,
    MoreJobs,
    Submission,
    wrong_texts,
    wrong_times,
)
from shared.creation import NewJob
from shared.kinds import KINDS
from shared.kinds.kind import Kind
from shared.kinds.secret import has_secrets
from shared.settings import Settings

_LEAVES = (
    inspect.BoolType,
    inspect.FloatType,
    inspect.IntType,
    inspect.LiteralType,
    inspect.NoneType,
    inspect.StrType,
    inspect.UUIDType,
)


class _Job(NewJob, forbid_unknown_fields=True):
    name: JobName
    params: Raw


class _Fields(BatchFields, forbid_unknown_fields=True):
    # the same, not yet looked into
    jobs: Annotated[list[_Job], JOBS_OF_OPEN] = field(default_factory=list)  # type: ignore[assignment]


class _More(MoreJobs, forbid_unknown_fields=True):
    jobs: Annotated[list[_Job], JOBS]  # type: ignore[assignment]  # the same


_decode = msgspec.json.Decoder(_Fields).decode
_decode_more = msgspec.json.Decoder(_More).decode


def read_plain(body: bytes, settings: Settings) -> Submission | None:
    """What `read_submission` makes of this body, if nothing is wrong and nothing needs a second look; else None."""
    if b"\\u0000" in body:
        return None
    try:
        fields = _decode(body)
        kind = KINDS.get(fields.kind)
        if kind is None or not (fields.jobs or fields.open):
            return None
        uploads = _uploads(kind, fields.jobs, settings)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if uploads is None or any(wrong_texts({"title": fields.title, "metadata": fields.metadata}, settings)):
        return None
    schedule = {"runAfter": fields.run_after, "expiresAt": fields.expires_at}
    if any(wrong_times(schedule | {"after": fields.after, "afterAny": fields.after_any})):
        return None
    return Submission(kind, fields, list(fields.jobs), uploads, [], fields.after)


def read_plain_jobs(body: bytes, kind: Kind, settings: Settings) -> Submission | None:
    """The same of `read_more_jobs`."""
    if b"\\u0000" in body:
        return None
    try:
        jobs = _decode_more(body).jobs
        uploads = _uploads(kind, jobs, settings)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return None if uploads is None else Submission(kind, None, list(jobs), uploads, [])


def _uploads(kind: Kind, jobs: Sequence[_Job], settings: Settings) -> list[tuple[str, UUID]] | None:
    """Those that the jobs name, all of which is as it should be; None where that needs a second look."""
    if not _closed(kind.params):
        return None
    read = _reader(kind.params)
    uploads: list[tuple[str, UUID]] = []
    for number, job in enumerate(jobs):
        if len(job.params) > settings.max_params:
            return None  # with its white space
        found = kind.uploads(read(job.params))
        uploads += [(f"jobs[{number}].params.{field}", upload) for field, upload in found]
    return uploads


@cache
def _reader(type_: type[Struct]) -> Callable[[Raw], Any]:
    return msgspec.json.Decoder(type_).decode


@cache
def _closed(type_: type[Struct]) -> bool:
    """Whether reading the type looks at every byte: nothing unknown is passed over, nothing is free-form or secret."""
    shape = inspect.type_info(type_)
    return (
        isinstance(shape, inspect.StructType)
        and shape.forbid_unknown_fields
        and not has_secrets(type_)
        and all(_leaf(field.type) for field in shape.fields)
    )


def _leaf(shape: inspect.Type) -> bool:
    if isinstance(shape, inspect.Metadata):
        return _leaf(shape.type)
    if isinstance(shape, inspect.UnionType):
        return all(_leaf(option) for option in shape.types)
    return isinstance(shape, _LEAVES)
