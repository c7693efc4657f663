"""What becomes of a job whose attempt failed."""

from collections.abc import Callable

from shared.jobs import JobStatus
from shared.kinds.kind import Kind


def after_failure(
    kind: Kind, failures: int, jitter: Callable[[], float], *, fatal: bool = False, after: float | None = None
) -> tuple[JobStatus, float | None]:
    """The job's next state and, if it is tried again, the wait before that in seconds.

    `failures` is how many attempts failed before this one; `jitter` gives numbers in [0, 1). Full jitter: jobs that
    failed together do not come back together.
    """
    if fatal or failures + 1 >= kind.max_attempts:
        return JobStatus.FAILED, None
    if after is not None:
        return JobStatus.QUEUED, max(0.0, float(after))
    first, longest = kind.backoff
    return JobStatus.QUEUED, jitter() * min(longest, first * 2.0**failures)
