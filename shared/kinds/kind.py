"""What the system knows of a kind of job without running it; its handler is the worker's."""

from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from msgspec import Struct


def no_uploads(params: Any) -> Iterable[tuple[str, UUID]]:  # noqa: ARG001  # the shape of Kind.uploads
    """The usual kind refers to no uploaded files."""
    return ()


class Kind(Struct, frozen=True, kw_only=True):
    name: str
    title: str
    params: type[Struct]
    """What a job's `params` must be; unknown fields are refused when it says `forbid_unknown_fields`."""
    queue: str = "default"
    """Worker processes serve one queue each: slow kinds get their own. Empty: no worker runs this kind."""
    concurrency: int | None = None
    """Jobs of this kind that run at once, all batches and owners together. An operator may say otherwise, as of `rate`:
    HEADWAY_LIMITS."""
    rate: float | None = None
    """Starts a second; a second's worth of them, or one, may come at once."""
    max_attempts: int = 3
    time_limit: float = 600
    """Seconds for one attempt."""
    backoff: tuple[float, float] = (1, 60)
    """Seconds: the wait before the second attempt at most, and the longest wait."""
    result: Any = None
    """The type of a job's result, for `summarise`."""
    summarise: Callable[[Iterable[Any]], Any] | None = None
    """Adds up the results (in job order, of type `result`) of the completed jobs to the batch's summary.

    Must be quick (summaries.LONGEST): the batch is locked meanwhile. If it raises, the summary is null."""
    uploads: Callable[[Any], Iterable[tuple[str, UUID]]] = no_uploads
    """The uploads that a job's params name, each with its path in the params."""
