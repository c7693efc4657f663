"""What a program reports of its job: read, and every wrong field named."""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, get_args
from uuid import UUID

import msgspec
from msgspec import Meta, Struct, ValidationError

from services.api.body import decode_json, too_deep
from shared.errors import FieldError
from shared.events import encode
from shared.settings import Settings
from shared.updates import Level
from shared.web.validation import MOST_ERRORS, explain, invalid, unstorable

MOST_REPORTS = 1000
"""Of one request: it is one transaction, and the batch is locked meanwhile."""

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Percent = Annotated[float, Meta(ge=0, le=100)]
At = Annotated[datetime, Meta(tz=True)]


class Report(Struct, tag_field="type", forbid_unknown_fields=True, kw_only=True):
    sequence: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    """Higher than that of the report before."""


class StartReport(Report, tag="start", rename="camel"):
    take_over: bool = False
    """Also from a run that has not ended."""


class ProgressReport(Report, tag="progress"):
    """What is left out, or null, stays as it is; with nothing at all it says that the work goes on."""

    percent: Percent | None = None
    """If there is none, it follows from `done`, `failed` and `total`."""
    message: str | None = None
    done: Count | None = None
    failed: Count | None = None
    total: Count | None = None


class StepReport(Report, tag="step"):
    name: str
    percent: Percent | None = None
    at: At | None = None


class LogReport(Report, tag="log"):
    text: str
    level: Level = "log"
    at: At | None = None


class WarningReport(Report, tag="warning"):
    text: str
    at: At | None = None


class MetadataReport(Report, tag="metadata"):
    metadata: dict[str, Any]
    """In place of what was there."""


class CompleteReport(Report, tag="complete"):
    result: Any = None


class FailReport(Report, tag="fail"):
    message: str
    code: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,100}(?!\n)$")] = "failed"
    retry: bool = False
    """Whether another attempt is worth it, if one is left."""


class CancelledReport(Report, tag="cancelled"):
    """The work ended because it was cancelled."""


AnyReport = (
    StartReport
    | ProgressReport
    | StepReport
    | LogReport
    | WarningReport
    | MetadataReport
    | CompleteReport
    | FailReport
    | CancelledReport
)

ENDS = (CompleteReport, FailReport, CancelledReport)

_TYPES: dict[str, type[Report]] = {str(type_.__struct_config__.tag): type_ for type_ in get_args(AnyReport)}


class Reports(Struct, forbid_unknown_fields=True):
    """The body of `POST /api/jobs/{id}/report`."""

    run: UUID
    """Chosen by whoever reports, anew for each attempt."""
    reports: Annotated[list[AnyReport], Meta(min_length=1, max_length=MOST_REPORTS)]


class _Outer(Reports, forbid_unknown_fields=True):
    """Its reports are looked at one by one, so that all that is wrong is found."""

    reports: Annotated[list[Any], Meta(min_length=1, max_length=MOST_REPORTS)]


def read_reports(body: bytes, settings: Settings) -> Reports:
    """Raises Malformed and Invalid."""
    try:
        return _read(decode_json(body), settings)
    except RecursionError:
        # it could be decoded with what the stack had left, but not be looked at
        raise too_deep() from None


def _read(value: Any, settings: Settings) -> Reports:
    errors: list[FieldError] = []
    reports: list[AnyReport] = []
    outer = _Outer(UUID(int=0), [])
    try:
        outer = msgspec.convert(value, _Outer)
    except ValidationError as error:
        errors = explain(error, value, _Outer, "")
        if isinstance(value, dict) and isinstance(value.get("reports"), list):
            outer.reports = value["reports"][:MOST_REPORTS]
    for number, one in enumerate(outer.reports):
        if len(errors) > MOST_ERRORS:
            break
        path = f"reports[{number}]"
        try:
            report = msgspec.convert(one, AnyReport)
        except ValidationError as error:
            errors += _explained(error, one, path)
            continue
        errors += islice(_wrong(report, reports[-1] if reports else None, path, settings), MOST_ERRORS)
        reports.append(report)
    if errors:
        raise invalid(errors)
    return Reports(outer.run, reports)


def _explained(error: ValidationError, value: Any, path: str) -> list[FieldError]:
    """What is wrong with one report, in the words of its own type."""
    if not isinstance(value, dict):
        return [FieldError(path, "expected object")]
    name = value.get("type")
    if (type_ := _TYPES.get(name) if isinstance(name, str) else None) is None:
        return [FieldError(f"{path}.type", f"expected one of {', '.join(_TYPES)}")]
    return explain(error, {field: inner for field, inner in value.items() if field != "type"}, type_, path)


def _wrong(report: Report, before: Report | None, path: str, settings: Settings) -> Iterator[FieldError]:
    """What its type does not say."""
    if before is not None and report.sequence <= before.sequence:
        yield FieldError(f"{path}.sequence", "expected more than that of the report before")
    if isinstance(before, ENDS):
        yield FieldError(path, "comes after the end of its run")
    match report:
        case MetadataReport(metadata=metadata):
            yield from _kept(metadata, f"{path}.metadata", settings.max_metadata)
        case CompleteReport(result=result):
            yield from _kept(result, f"{path}.result", settings.max_result)


def _kept(value: Any, path: str, limit: int) -> Iterator[FieldError]:
    """What PostgreSQL could not store of free-form JSON, or we would not."""
    if wrong := list(islice(unstorable(value, path), MOST_ERRORS)):
        yield from wrong
    elif len(encode(value)) > limit:
        yield FieldError(path, f"is longer than {limit} bytes")
