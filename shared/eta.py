"""When a batch will be done: from how long its jobs take, how many run at once, and how many are left.

Pure: see docs/estimates.md for the reasoning, and docs/benchmarks.md for how often it is right.
"""

import math
from datetime import datetime
from typing import Any

from msgspec import Struct

from shared.jobs import FINAL_BATCH, BatchStatus
from shared.lengths import ROOT, Lengths, Running, fit, running
from shared.pace import NORMAL, Pace, load

_LOW, _HIGH = 0.05, 0.84
"""Where the interval begins and ends, in parts of what may happen. What is too short costs it little width, what is too
long much: so it is less generous at the upper end."""
_BELOW, _ABOVE = NORMAL.inv_cdf(_LOW), NORMAL.inv_cdf(_HIGH)

_DRIFT = 0.57
"""What the lengths of a batch's jobs may change by from the first to the last: a standard deviation, of logarithms."""
_FASTER, _SLOWER = 0.85, 2.3
"""How many of those the interval allows for: half as long as what was seen, or three times as long."""
_BATCHES = 5
"""Of a kind at most, against one of which only that is known: what earlier ones did, this one need not do."""

_EARLY = 0.25
"""How far, as a share, it is off what was taken from a trend because the short ones end first."""

_MODEL = 0.23
"""How far from it all reality is anyway: a standard deviation, of logarithms."""

_WIDEST = 1.9
"""The upper end's distance, a logarithm, comes near to this at most: farther would be true more often, and no use. It
does so while only a few jobs have ended."""

_IDLE = 0.1
"""Jobs at once at least, however seldom one was under way lately."""

_STALLED = 30.0
"""Seconds without any job under way, after which nothing is said any more."""

_FAIRLY = 10
"""Completed jobs that are added before it is told how many fail: the first ones to end are those that fail at once."""

_PIECES = 3
"""Queued jobs are looked at in groups, the last to begin one by one and others the coarser the earlier they begin:
each group is so many times those behind it."""

_STEPS = 8
"""Of halving, to find when all are done."""

_FOREVER = 1e9
"""Seconds: nothing takes longer."""


class Estimate(Struct, frozen=True):
    """Seconds from now: 0 <= low <= seconds <= high."""

    seconds: float
    low: float
    high: float


class _Group(Struct, frozen=True):
    """Jobs that begin, or have begun, at `begin` seconds from now; `alive`: the share of jobs that last until now."""

    begin: float
    jobs: float
    alive: float


def estimate(row: Any, now: datetime) -> Estimate | None:
    """Of a batch's row as any statement reads it (columns.BATCH_COLUMNS), at `now`. None: nothing can be said."""
    if row.started_at is None or row.status in FINAL_BATCH or row.status == BatchStatus.PAUSED or row.cancel_requested:
        return None
    pace, moment, wait = load(row.pace), now.timestamp(), 0.0
    if not row.processing:
        if row.next_due is not None:
            wait = max(0.0, row.next_due.timestamp() - moment)
        if not wait and moment - pace.at > _STALLED:
            return None
    percent = (row.progress_sum - 100 * (row.completed + row.failed + row.cancelled)) / max(1, row.processing)
    found = forecast(pace, queued=row.queued, processing=row.processing, now=moment, percent=percent)
    if found is None:
        return None
    low, seconds, high = (round(wait + value, 1) for value in (found.low, found.seconds, found.high))
    return Estimate(seconds, low, high)


def forecast(pace: Pace, *, queued: int, processing: int, now: float, percent: float = 0.0) -> Estimate | None:
    """For so many jobs that are left, at `now` in seconds since 1970; `percent`: reported by those under way, on the
    average.
    """
    left, passed = queued + processing, max(0.0, now - pace.at)
    under_way = running(pace, processing, passed)
    lengths = fit(pace, under_way, percent)
    slots = min(left, max(_IDLE, _parallel(pace, processing, passed)))
    if lengths is None or not left:
        return None
    fast, usual, slow = (work * lengths.mean for work in _work(pace, lengths.mean))
    luck = math.sqrt(math.log1p(min(9.0, lengths.variation**2 / queued))) if queued else 0.0
    until = queued * usual / slots * math.exp(-luck * luck / 2)
    groups = [*_running(lengths, under_way), *_queued(queued, slots, until)]
    goals = ((_LOW, lengths.tail), (0.5, lengths.tail), (_HIGH, lengths.reach))
    soonest, middle, latest = _finish(lengths, groups, goals, until + lengths.mean)
    # the parts of the doubt, each as a factor, independent of one another
    trend, doubt = _trend(pace, left, lengths.spread, processing)
    share = until / middle
    up = math.hypot(share * math.expm1(_ABOVE * luck), latest / middle - 1)
    down = math.hypot(share * -math.expm1(_BELOW * luck), 1 - soonest / middle)
    known = math.hypot(lengths.doubt, _MODEL)
    above = math.hypot(_ABOVE * known, math.log1p(up), _SLOWER * doubt, lengths.unseen) + share * math.log(slow / usual)
    below = math.hypot(_BELOW * known, math.log1p(-min(0.95, down)), _FASTER * doubt) + share * math.log(usual / fast)
    seconds = middle * math.exp(trend)
    low, high = seconds * math.exp(-below), seconds * math.exp(_bounded(above))
    return Estimate(*(min(_FOREVER, value) for value in (seconds, low, high)))


def _bounded(above: float) -> float:
    """As it is where it is well below the widest."""
    return above / math.sqrt(math.sqrt(1 + (above / _WIDEST) ** 4))


def _parallel(pace: Pace, processing: int, passed: float) -> float:
    """How many jobs run at once: what was counted lately, moved towards what is so now."""
    if not pace.active:
        return float(processing)
    return pace.parallel - (processing - pace.parallel) * math.expm1(-passed / pace.smoothing)


def _work(pace: Pace, mean: float) -> tuple[float, float, float]:
    """What a queued job takes of a slot, its failures counted in, in mean lengths: at least, likely, at most.

    Those that fail at once take next to nothing, but that the first ones did says little about the others.
    """
    ended = pace.completed + pace.failed
    again = pace.retried_seconds / mean / max(1, ended)
    if not pace.failed:
        return 1 + again, 1 + again, 1 + again
    spared = 1 - pace.failed_seconds / pace.failed / mean
    observed, likely = pace.failed / ended, pace.failed / (ended + _FAIRLY)
    works = [max(0.01, 1 - part * spared) + again for part in (observed, likely, likely / 2)]
    return min(works), works[1], max(works)


def _trend(pace: Pace, left: int, spread: float, processing: int) -> tuple[float, float]:
    """By how much the lengths of those that are left are likely to differ from those seen, and the doubt about it: both
    of logarithms. The later ones of those seen, against all, give a slope, as far as chance leaves one to see.
    """
    done, (expected, real) = pace.completed, _usual_trend(pace)
    part = done / (done + left)
    distance = part / 3 + (1 - part) / 2  # from where it was seen, on the average, to where it is wanted
    if not done:
        return expected * distance, math.sqrt(real) * distance
    found, early = pace.drift(processing)
    chance = 12 * max(1e-4, spread * spread) / done + (_EARLY * early) ** 2
    trust = real / (real + chance / (part * part))
    slope = expected + (found / part - expected) * trust
    return slope * distance, math.sqrt(real * (1 - trust)) * distance


def _usual_trend(pace: Pace) -> tuple[float, float]:
    """From a batch's first job to its last, as far as its kind tells: what is likely, and the variance."""
    if pace.history is None:
        return 0.0, _DRIFT * _DRIFT
    batches = min(_BATCHES, pace.history.batches)
    variance = (_DRIFT * _DRIFT + batches * pace.history.wander) / (batches + 1)
    return pace.history.drift * batches / (batches + 1), variance


def _running(lengths: Lengths, under_way: list[Running]) -> list[_Group]:
    return [_Group(-group.age, group.jobs, lengths.beyond(group.age)) for group in under_way]


def _queued(queued: int, slots: float, until: float) -> list[_Group]:
    """They begin one after the other, the last of them at `until`; the earliest come first."""
    groups: list[_Group] = []
    behind, size = 0.0, max(1.0, slots)
    while behind < queued:
        size = min(size, queued - behind)
        groups.append(_Group(until * (1 - (behind + size / 2) / queued), size, 1.0))
        behind += size
        size = _PIECES * behind
    return groups[::-1]


def _finish(
    lengths: Lengths, groups: list[_Group], goals: tuple[tuple[float, float], ...], usual: float
) -> list[float]:
    """By how many seconds from now all have ended, with each of some probabilities (rising). `usual`: where to look.

    It is asked for at every change of a batch: what follows is written to be quick.
    """
    jobs = [(group.begin, group.jobs, 1 / group.alive) for group in reversed(groups)]  # first what ends last
    middle, below = lengths.middle, ROOT / lengths.spread
    log, log1p, erfc = math.log, math.log1p, math.erfc

    def ended(seconds: float, goal: float, above: float) -> bool:
        """Whether the logarithm of the probability that all have ended by then reaches `goal`."""
        total = 0.0
        for begin, number, alive in jobs:
            if seconds <= begin:
                return False
            far = log(seconds - begin) - middle
            late = 0.5 * erfc(far * (above if far > 0 else below)) * alive
            if late >= 1:
                return False
            total += number * log1p(-late)
            if total < goal:
                return False
        return True

    found, low = [], max(0.0, jobs[0][0])
    for probability, tail in goals:
        above = ROOT / tail
        goal, high = log(probability), max(usual, low)
        while high < _FOREVER and not ended(high, goal, above):
            low, high = high, 2 * high
        for _ in range(_STEPS):
            half = (low + high) / 2
            if ended(half, goal, above):
                high = half
            else:
                low = half
        found.append((low + high) / 2)
    return found
