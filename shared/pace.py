"""What is kept of how long a batch's jobs took: enough to say when the rest will be done, and no more than that.

A few sums, each moved in O(1) by an ended job; none of them grows with the batch. See docs/estimates.md.
"""

import math
from statistics import NormalDist
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

NORMAL = NormalDist()

SHORTEST = 1e-3
"""Seconds: what took less counts as this long. Clocks are no better, and a logarithm needs something."""

_SHORT = 0.05
"""Mean lengths: what took less than so many of them counts as this long where logarithms are taken."""

_FIRST = 3.6
"""Spreads by which lengths would seem to grow from the first job to the last, had only as many ended as still run: the
first ones to end are the short ones. Among more that have ended it is that much less."""

_SMOOTH = (2.0, 60.0)
"""Seconds over which the number of jobs at once is averaged, at least and at most; between them two jobs' length."""

_LEARN = 0.2
"""How much a kind's history goes by its latest batch, at least."""

_ENOUGH = 3
"""Completed jobs with which a batch is worth remembering for its kind."""


class History(Struct, array_like=True, frozen=True):
    """How long jobs of one kind took, batch by batch, lately."""

    batches: int = 0
    level: float = 0.0
    """The mean over batches of the logarithm of their jobs' mean length in seconds."""
    between: float = 0.0
    """The variance of that from batch to batch."""
    within: float = 0.0
    """The variance of the logarithm of a job's length within a batch."""
    tail: float = 0.0
    """Like the square root of that, of the longest jobs alone: larger where they are longer than that lets expect."""
    drift: float = 0.0
    """By how much, as a logarithm, lengths change from the first job of a batch to its last."""
    wander: float = 0.0
    """The variance of that from batch to batch."""


class Pace(Struct, array_like=True):
    """Weights: of the completed jobs the k-th counts k times, so that later ones count more and none is forgotten."""

    at: float = 0.0
    """Seconds since 1970, until when time has been counted."""
    active: float = 0.0
    """Seconds in which there was something that could have been started."""
    parallel: float = 0.0
    """How many ran at once lately."""
    ages: float = 0.0
    """Seconds that those which run have been running, all together."""
    squares: float = 0.0
    """The sum of the squares of the same, one by one."""
    completed: int = 0
    mean: float = 0.0
    """Seconds of a completed job, weighted."""
    log1: float = 0.0
    """The weighted means of the logarithm of the seconds of completed jobs, and of its square."""
    log2: float = 0.0
    plain: float = 0.0
    """Like `log1`, not weighted: what is between the two is a trend."""
    longest: float = 0.0
    """Seconds of the longest that has completed."""
    failed: int = 0
    failed_seconds: float = 0.0
    retried: int = 0
    """Attempts after which there was another."""
    retried_seconds: float = 0.0
    history: History | None = None
    """Its kind's, as it was when the batch began."""

    def tick(self, now: float, running: int, *, moving: bool) -> None:
        """Counts the time until `now`, in which `running` jobs were under way; not `moving`: nothing could be started
        either, as in a pause.
        """
        passed, self.at = max(0.0, now - self.at) if self.at else 0.0, max(now, self.at)
        if not running:
            self.ages = self.squares = 0.0
        self.squares += passed * (2 * self.ages + running * passed)
        self.ages += running * passed
        if moving and passed > 0:
            self.active += passed
            self.parallel += (running - self.parallel) * -math.expm1(-passed / self.smoothing)

    @property
    def smoothing(self) -> float:
        """Seconds over which `parallel` is averaged: less in the beginning, when all that was before is nothing."""
        shortest, longest = _SMOOTH
        return max(1e-3, min(max(shortest, 2 * self.mean), longest, self.active / 2))

    def complete(self, seconds: float) -> None:
        """A job has completed; its last attempt took so long."""
        self._end(seconds)
        seconds = max(SHORTEST, seconds)
        length = math.log(max(seconds, _SHORT * self.mean))
        self.completed += 1
        share = 2 / (self.completed + 1)
        self.mean += share * (seconds - self.mean)
        self.log1 += share * (length - self.log1)
        self.log2 += share * (length * length - self.log2)
        self.longest = max(self.longest, seconds)
        self.plain += (length - self.plain) / self.completed

    def fail(self, seconds: float) -> None:
        """A job has failed for good."""
        self._end(seconds)
        self.failed += 1
        self.failed_seconds += max(0.0, seconds)

    def retry(self, seconds: float) -> None:
        """An attempt has failed, and there will be another."""
        self._end(seconds)
        self.retried += 1
        self.retried_seconds += max(0.0, seconds)

    def leave(self, seconds: float) -> None:
        """An attempt was cancelled or given back: it tells nothing."""
        self._end(seconds)

    def _end(self, seconds: float) -> None:
        seconds = max(0.0, seconds)
        self.ages = max(0.0, self.ages - seconds)
        self.squares = max(0.0, self.squares - seconds * seconds)

    @property
    def variance(self) -> float:
        return max(0.0, self.log2 - self.log1 * self.log1)

    def drift(self, running: float) -> tuple[float, float]:
        """By how much, as a logarithm, lengths change from the first job that has completed to the last; and how much
        more it looked like, as so many were running beside them.
        """
        early = _FIRST * math.sqrt(self.variance) * running / (running + self.completed)
        return 6 * (self.log1 - self.plain) - early, early

    @property
    def tail(self) -> float:
        """How far the longest job is from the middle, in steps of a normal distribution."""
        if self.completed < _ENOUGH:
            return math.sqrt(self.variance)
        return max(0.0, math.log(self.longest) - self.log1) / NORMAL.inv_cdf(0.5 ** (1 / self.completed))


def remember(history: History | None, pace: Pace) -> History | None:
    """A kind's history with one more batch in it; as it was if that was too short to tell anything."""
    if pace.completed < _ENOUGH:
        return history
    drift = _whole_drift(pace)
    level, within, tail = math.log(max(SHORTEST, pace.mean)), pace.variance, pace.tail
    if history is None:
        return _rounded(History(1, level, 0.0, within, tail, drift))
    share = max(_LEARN, 1 / (history.batches + 1))
    off, bent = level - history.level, drift - history.drift
    return _rounded(
        History(
            batches=history.batches + 1,
            level=history.level + share * off,
            between=(1 - share) * (history.between + share * off * off),
            within=history.within + share * (within - history.within),
            tail=history.tail + share * (tail - history.tail),
            drift=history.drift + share * bent,
            wander=(1 - share) * (history.wander + share * bent * bent),
        )
    )


def _whole_drift(pace: Pace) -> float:
    """Of a batch that has ended, by the logarithm; what is within chance counts for little.

    What made lengths seem to grow at the beginning did so again at the end, where the long ones are the last.
    """
    found, early = pace.drift(pace.parallel)
    found -= early
    chance = 12 * pace.variance / pace.completed + 4 * early * early
    return found**3 / max(1e-9, found * found + chance)


def load(stored: Any) -> Pace:
    """What a batch's `pace` holds; an empty one for null, and for what another version of this left there."""
    try:
        return Pace() if stored is None else msgspec.convert(stored, Pace)
    except msgspec.ValidationError:
        return Pace()


def load_history(stored: Any) -> History | None:
    """The same for a kind's."""
    try:
        return None if stored is None else msgspec.convert(stored, History)
    except msgspec.ValidationError:
        return None


_Kept = TypeVar("_Kept", Pace, History)


def dump(pace: _Kept) -> str:
    """JSON, of six digits a number: a row that is rewritten at every change had better be short."""
    return msgspec.json.encode(_rounded(pace)).decode()


def _rounded(value: _Kept) -> _Kept:
    numbers = {name: getattr(value, name) for name in value.__struct_fields__ if name != "at"}
    short = {name: _short(number) for name, number in numbers.items() if isinstance(number, float)}
    return msgspec.structs.replace(value, **short)


def _short(number: float) -> float:
    return float(f"{number:.6g}")
