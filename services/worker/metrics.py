"""What a worker process counts: plain numbers that whoever does something adds to.

Nothing here is locked or looked up by labels. Each number is added to by one thread, or under the ledger's lock, or so
seldom that it does not matter. Once a second the process writes all of it into a file (report.py); who keeps the
process alive reads that, and `infra/workers/exposition.py` shows it.
"""

from bisect import bisect_left
from typing import Literal

from msgspec import Struct, field

ATTEMPT_BOUNDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
"""Seconds."""
WAIT_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
COMMIT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

Outcome = Literal["completed", "failed", "retried", "cancelled", "given_back", "lost"]
OUTCOMES: tuple[Outcome, ...] = ("completed", "failed", "retried", "cancelled", "given_back", "lost")
"""Of attempts. `lost`: the job had gone to another worker, or its batch was deleted."""

KINDS_MAX = 200
"""More kinds than that are counted together, as `other`: a label's values have to end somewhere."""


class Histogram(Struct):
    """`counts` has one more than `bounds`, for what is above the last. Not added up yet."""

    counts: list[int]
    total: float = 0.0

    def add(self, bounds: tuple[float, ...], value: float) -> None:
        self.counts[bisect_left(bounds, value)] += 1
        self.total += value


def empty(bounds: tuple[float, ...]) -> Histogram:
    return Histogram([0] * (len(bounds) + 1))


class OfKind(Struct):
    """Attempts at jobs of one kind."""

    started: int = 0
    ended: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    seconds: Histogram = field(default_factory=lambda: empty(ATTEMPT_BOUNDS))
    """How long the handlers took, however they ended."""


class OfListener(Struct):
    """What a listener was told."""

    told: int = 0
    failed: int = 0


class Metrics(Struct):
    """All numbers only grow."""

    kinds: dict[str, OfKind] = field(default_factory=dict)
    waited: Histogram = field(default_factory=lambda: empty(WAIT_BOUNDS))
    """From a job's creation, or the time that it was put off to, to its start."""
    claims: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("found", "empty", "failed"), 0))
    claim_seconds: float = 0.0
    commits: Histogram = field(default_factory=lambda: empty(COMMIT_BOUNDS))
    """Of one batch each."""
    changes: int = 0
    """Starts and updates of jobs in them."""
    lines: int = 0
    """Log lines in them."""
    lines_dropped: int = 0
    tickets: int = 0
    """Taken, also those with which nothing came of."""
    failures: int = 0
    """Statements of the ledger that PostgreSQL did not answer, or not as it should."""
    expired: int = 0
    """Jobs whose worker, another one, was not heard of any more."""
    abandoned: int = 0
    """Handlers that did not end when asked."""
    listeners: dict[str, OfListener] = field(default_factory=dict)

    def of(self, kind: str) -> OfKind:
        known = self.kinds.get(kind)
        if known is None:
            kind = kind if len(self.kinds) < KINDS_MAX else "other"
            known = self.kinds.setdefault(kind, OfKind())
        return known

    def add(self, other: "Metrics") -> None:
        """What `other` counted is counted here as well."""
        for kind, theirs in other.kinds.items():
            ours = self.of(kind)
            ours.started += theirs.started
            _add(ours.ended, theirs.ended)
            _merge(ours.seconds, theirs.seconds)
        for name, told in other.listeners.items():
            listener = self.listeners.setdefault(name, OfListener())
            listener.told += told.told
            listener.failed += told.failed
        _add(self.claims, other.claims)
        _merge(self.waited, other.waited)
        _merge(self.commits, other.commits)
        self.claim_seconds += other.claim_seconds
        self.changes += other.changes
        self.lines += other.lines
        self.lines_dropped += other.lines_dropped
        self.tickets += other.tickets
        self.failures += other.failures
        self.expired += other.expired
        self.abandoned += other.abandoned


def _add(ours: dict[str, int], theirs: dict[str, int]) -> None:
    for name, number in theirs.items():
        ours[name] = ours.get(name, 0) + number


def _merge(ours: Histogram, theirs: Histogram) -> None:
    ours.counts = [one + other for one, other in zip(ours.counts, theirs.counts, strict=True)]
    ours.total += theirs.total
