"""What becomes of a job whose attempt failed."""

import math
from collections.abc import Callable

from shared.jobs import JobStatus
from shared.kinds.kind import Kind

LONGEST = 24 * 3600.0
"""Seconds that a handler may ask for: with a slip of the pen a job would else rest for years."""

_DOUBLINGS = 30
"""Of the backoff: more would soon be no number any more, and `longest` is reached long before."""


def after_failure(
    kind: Kind, failures: int, jitter: Callable[[], float], *, fatal: bool = False, after: float | None = None
) -> tuple[JobStatus, float | None]:
    """The job's next state and, if it is tried again, the wait before that in seconds.

    `failures` is how many attempts failed before this one; `jitter` gives numbers in [0, 1). Full jitter: jobs that
    failed together do not come back together.
    """
    if fatal or failures + 1 >= kind.max_attempts:
        return JobStatus.FAILED, None
    wait = _asked(after)
    if wait is not None:
        return JobStatus.QUEUED, wait
    first, longest = kind.backoff
    return JobStatus.QUEUED, jitter() * min(longest, first * 2.0 ** min(failures, _DOUBLINGS))


def _asked(after: object) -> float | None:
    """The wait that a handler asked for, within bounds; None if it is no number."""
    if not isinstance(after, int | float):
        return None
    wait = float(min(max(after, 0.0), LONGEST))  # a whole number may be more than a float holds
    return None if math.isnan(wait) else wait
