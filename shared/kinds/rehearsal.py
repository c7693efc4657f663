"""Kind `rehearsal`: does nothing, visibly. For smoke tests, front-end work, load and chaos."""

from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta, Struct

from shared.kinds.kind import Kind


class Rehearsal(Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    steps: Annotated[int, Meta(ge=1, le=10_000)] = 10
    step_ms: Annotated[int, Meta(ge=0, le=600_000)] = 100
    logs_per_step: Annotated[int, Meta(ge=0, le=10_000)] = 0
    fail_at_step: Annotated[int, Meta(ge=1)] | None = None
    fail_attempts: Annotated[int, Meta(ge=1)] | None = None
    """The first attempts that fail; None: all of them."""
    failure: Literal["fatal", "retryable", "crash", "hang"] = "fatal"
    artifact_bytes: Annotated[int, Meta(ge=1, le=2**30)] | None = None
    """At its end it gives a file of so many bytes."""


class Rehearsed(Struct, rename="camel", frozen=True):
    steps: int
    attempt: int


class RehearsalSummary(Struct, rename="camel", frozen=True):
    jobs: int
    steps: int


def summarise(results: Iterable[Rehearsed]) -> RehearsalSummary:
    jobs = steps = 0
    for result in results:
        jobs, steps = jobs + 1, steps + result.steps
    return RehearsalSummary(jobs, steps)


REHEARSAL = Kind(name="rehearsal", title="Rehearsal", params=Rehearsal, result=Rehearsed, summarise=summarise)
