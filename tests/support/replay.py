"""Batches played back: a pool of slots works off jobs whose lengths are given; what ended is folded, and the rest
estimated, by the code that does it in earnest.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from random import Random

from msgspec import Struct

from shared.eta import Estimate, forecast
from shared.pace import History, Pace, remember

Lengths = Callable[[Random, int], list[float]]
"""Seconds of each of so many jobs, in their order."""

_BEGIN = 1_800_000_000.0
"""Seconds since 1970: when every batch begins."""


class Reading(Struct, frozen=True):
    """What was said when a part of the jobs had ended, and what came true."""

    part: float
    estimate: Estimate | None
    remainder: float
    """Seconds from then on until the batch was done."""

    @property
    def covered(self) -> bool:
        return self.estimate is not None and self.estimate.low <= self.remainder <= self.estimate.high

    @property
    def width(self) -> float:
        """Of the interval, in true remainders."""
        return math.inf if self.estimate is None else (self.estimate.high - self.estimate.low) / self.remainder

    @property
    def error(self) -> float:
        """Of the estimate itself, in true remainders."""
        return math.inf if self.estimate is None else abs(self.estimate.seconds / self.remainder - 1)


def log_normal(sigma: float) -> Lengths:
    return lambda random, jobs: [random.lognormvariate(0, sigma) for _ in range(jobs)]


def pareto(alpha: float, longest: float = math.inf) -> Lengths:
    """The shortest is 1; longer ones than `longest` take that long."""
    return lambda random, jobs: [min(longest, random.paretovariate(alpha)) for _ in range(jobs)]


def drifting(factor: float, sigma: float = 0.5) -> Lengths:
    """The last job takes `factor` times as long as the first would have."""
    return lambda random, jobs: [
        random.lognormvariate(0, sigma) * (1 + (factor - 1) * job / jobs) for job in range(jobs)
    ]


def fixed() -> Lengths:
    """But for the noise of a machine."""
    return lambda random, jobs: [random.uniform(0.97, 1.03) for _ in range(jobs)]


def bimodal(ratio: float, share: float) -> Lengths:
    """A `share` of the jobs takes `ratio` times as long as the others."""
    return lambda random, jobs: [
        random.lognormvariate(0, 0.2) * (ratio if random.random() < share else 1) for _ in range(jobs)
    ]


FAMILIES: dict[str, Lengths] = {
    "fixed": fixed(),
    "log-normal, sigma 0.5": log_normal(0.5),
    "log-normal, sigma 1": log_normal(1),
    "log-normal, sigma 1.5": log_normal(1.5),
    "Pareto, alpha 1.5": pareto(1.5),
    "Pareto, alpha 1.5, cut at 50": pareto(1.5, 50),
    "slower and slower, up to 2 times": drifting(2),
    "slower and slower, up to 3 times": drifting(3),
    "faster and faster, down to half": drifting(1 / 2),
    "faster and faster, down to a third": drifting(1 / 3),
    "two lengths, 1 and 10": bimodal(10, 0.3),
}


def play(lengths: Sequence[float], slots: int, parts: Sequence[float], history: History | None) -> Iterator[Reading]:
    """Readings when each of `parts` (rising, above 0 and below 1) of the jobs has ended."""
    done, _ = _play(lengths, slots, parts, history)
    yield from done


def taught(lengths: Lengths, random: Random, batches: int, *, jobs: int = 200, slots: int = 8) -> History | None:
    """What a kind's history says after some batches, of which each had jobs of another general size."""
    history = None
    for _ in range(batches):
        size = random.lognormvariate(0, 0.3)
        _, pace = _play([size * length for length in lengths(random, jobs)], slots, (), history)
        history = remember(history, pace)
    return history


def _play(
    lengths: Sequence[float], slots: int, parts: Sequence[float], history: History | None
) -> tuple[list[Reading], Pace]:
    jobs = len(lengths)
    pace, now = Pace(at=_BEGIN, history=history), _BEGIN
    marks = [(part, math.ceil(part * jobs)) for part in parts]
    running: list[tuple[float, float]] = [(now + length, length) for length in lengths[:slots]]
    heapq.heapify(running)
    queued, ended, read = jobs - len(running), 0, []
    while running:
        now, length = running[0]
        pace.tick(now, len(running), moving=queued > 0)
        pace.complete(length)
        ended += 1
        if queued:
            length = lengths[jobs - queued]
            heapq.heapreplace(running, (now + length, length))
            queued -= 1
        else:
            heapq.heappop(running)
        while marks and ended >= marks[0][1]:
            part, _ = marks.pop(0)
            read.append((part, now, forecast(pace, queued=queued, processing=len(running), now=now)))
    return [Reading(part, estimate, now - at) for part, at, estimate in read], pace
