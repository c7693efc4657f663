"""How long the jobs of a batch are likely to take: read from its pace and, as far as that is short, its kind's history.

Lengths are taken for log-normal, with an upper half that may be stretched: real ones are rarely far from that, and it
takes three numbers. What still runs counts as well: a job that has been running for a minute is one that takes longer
than that, and leaving it out would make all of them look short in the beginning, when only short ones have ended.
"""

import math

from msgspec import Struct, structs

from shared.pace import NORMAL, SHORTEST, History, Pace

_USUAL = (1.0, 3.0)
"""The spread of the logarithms that is thought likely beforehand, and how many jobs it takes to outweigh that."""

_EVEN = 0.02
"""The least spread: no machine is more even than this."""

_STRETCH = (0.3, 10.0)
"""By how much, of squares at a spread of 1, the upper half is stretched beforehand: small spreads more than large ones;
and how many jobs it takes to outweigh that."""

_KIND = (40.0, 100.0)
"""Of how many jobs the spread and the stretch of a kind's history count as."""

_BETWEEN = 0.03
"""The least variance (of logarithms) from one batch of a kind to the next."""

_OUTSIDE = 0.02
"""How many batches take longer than their kind's history has it by more than chance: new inputs, another machine."""
_AGAIN = math.log(2)
"""By how much longer these do, as a logarithm, on the average: so what has lasted for longer than the history lets
expect is likely to last as long again."""
_POINTS, _STEP = 24, 0.15
"""How many levels are weighed of those that are as the history has it, and as many beyond what it lets expect: these a
step of a logarithm apart, so that they reach a little farther than anything that is reported."""
_LIKELY = tuple(NORMAL.inv_cdf((number + 0.5) / _POINTS) for number in range(_POINTS))
_ALIKE = 3.0
"""As how many independent jobs those under way count at most: the shortest of a kind may well all take longer than a
log-normal distribution has it, however many of them there are."""
_LEAST = 5.0
"""Per cent that jobs under way must have reported, on the average, for that to tell a length: less may be rounding."""
_REPORTED = (0.5, 0.2)
"""How far off that is, a standard deviation of logarithms, for handlers count steps and not seconds: of what is left,
and of all."""

_PLAIN = 2.0
"""Standard deviations above its kind's history that a batch may be by chance: beyond them the history is given up."""

_WEIGHT = 0.75
"""Of how many equally weighted jobs a weighted one is worth: see Pace."""

_REACH = 0.55
"""A tail that is stretched by what has been seen may well be stretched further by what has not: by this, as a share."""

_FEW, _OTHER = 2.4, 12.0
"""As long as only a few jobs have ended, all others may be of another sort, and take so many times as long."""

_SKEW, _WAVE = 0.48, 5.0
"""What a tail of 1 leaves open, as a logarithm, however many have ended: the longest are yet to come. It grows with the
third power, for a tail of 0.5 leaves next to nothing open and one of 1.5 more than anything else does; and by up to so
many times as long as fewer jobs have ended than run beside them."""

_SEEN = 0.5
"""How much the mean goes by the seconds that were seen, instead of by the distribution: these tell too little of tails,
and that knows nothing but tails."""

_ROUNDS = 10
"""Of expectation and maximisation at most; with few under way it takes two or three."""

_CLOSE = 0.01
"""Of logarithms: what changes by less in a round is found."""

_MANY = 5
"""Spreads above the middle, from where a normal distribution's tail is as good as exponential."""

_SURE = 6
"""Spreads above the middle at most is what runs already: else the spread is taken to be larger."""

ROOT = math.sqrt(0.5)  # of the error function, beside a normal distribution
_DENSITY = 1 / math.sqrt(2 * math.pi)


class Running(Struct, frozen=True):
    """Some of the jobs under way, taken to be of one age in seconds."""

    age: float
    jobs: float


class Lengths(Struct, frozen=True):
    """`middle` is the logarithm of the median in seconds; `spread` and `tail` are how far logarithms reach below and
    above it, `reach` is how far the tail may extend instead. `doubt`: of the logarithm of `mean`, which is in seconds.
    `unseen`: how much longer, as a logarithm, all may take because of jobs that are not like those that have ended.
    """

    middle: float
    spread: float
    tail: float
    reach: float
    mean: float
    doubt: float
    unseen: float

    def beyond(self, seconds: float) -> float:
        """The share of jobs that take longer."""
        if seconds <= 0:
            return 1.0
        above = math.log(seconds) - self.middle
        return 0.5 * math.erfc(above / (self.tail if above > 0 else self.spread) * ROOT)

    @property
    def variation(self) -> float:
        """The standard deviation of a job's length, in mean lengths."""
        return math.sqrt(math.expm1(min(9.0, self.spread * self.spread)))


def running(pace: Pace, jobs: int, passed: float) -> list[Running]:
    """Those under way, in two halves: younger and older ones. `passed`: seconds since the pace was told of anything."""
    if not jobs:
        return []
    age = pace.ages / jobs + passed
    square = (pace.squares + passed * (2 * pace.ages + jobs * passed)) / jobs
    apart = min(math.sqrt(max(0.0, square - age * age)), 0.9 * age)
    return [Running(age - apart, jobs / 2), Running(age + apart, jobs / 2)]


def fit(pace: Pace, under_way: list[Running], percent: float = 0.0) -> Lengths | None:
    """None: there is nothing to go by. `percent`: what those under way have reported, on the average."""
    if not pace.completed:
        return None if pace.history is None else _stretched(_fit_history(pace.history, under_way, percent), under_way)
    history, jobs = pace.history, _WEIGHT * pace.completed
    others = sum(group.jobs for group in under_way)
    usual, weight = _usual_spread(pace), _USUAL[1]
    if history is not None:
        usual, weight = math.sqrt(max(_EVEN**2, history.within)), _KIND[0]
    spread = math.sqrt((pace.variance * jobs + usual * usual * weight) / (jobs + weight))
    middle = pace.log1
    if others:
        middle, spread = _with_running(pace, jobs, under_way, middle, spread, usual, weight)
    seen = jobs * jobs / (jobs + 2 * others)  # the longest are often among those that still run
    stretch, least = math.hypot(1, _STRETCH[0] / math.sqrt(spread)), _STRETCH[1]
    if history is not None:
        stretch, least = history.tail / max(_EVEN, math.sqrt(history.within)), _KIND[1]
    own = pace.tail / max(_EVEN, math.sqrt(pace.variance))
    far = (own * seen + stretch * least) / (seen + least)
    if history is not None and own < stretch:  # what takes longer than this batch has been running cannot have ended
        own += min(1.0, pace.longest / max(SHORTEST, pace.active)) ** 2 * (stretch - own)
    stretch, far = far, (own * seen + stretch * least) / (seen + least)
    tail, reach = spread * stretch, spread * far * (1 + _REACH * max(0.0, far - 1))
    # half by the mean that was seen, those that run going on from their age; half by the one of this distribution
    model = middle + spread * spread / 2
    seconds = jobs * pace.mean + sum(group.jobs * _lasting(group.age, middle, spread) for group in under_way)
    mean = model + _SEEN * (math.log(max(SHORTEST, seconds / (jobs + others))) - model)
    doubt = (spread**2 + spread**4 / 2) / (jobs if history is None else seen)
    if history is not None:
        between = _between(history)
        between += max(0.0, mean - history.level - _PLAIN * math.sqrt(between + spread * spread / jobs)) ** 2
        mean += doubt / (doubt + between) * (history.level - mean)
        doubt = doubt * between / (doubt + between)
    unseen = _unseen(pace.completed, others, tail) if history is None else 0.0
    return _stretched(Lengths(middle, spread, tail, reach, math.exp(mean), math.sqrt(doubt), unseen), under_way)


def _lasting(age: float, middle: float, spread: float) -> float:
    """The seconds that are to be expected of a job that has been running for `age` seconds."""
    above = (math.log(max(SHORTEST, age)) - middle) / spread
    if above > _MANY:
        return age * (1 + spread / above)
    longer = math.erfc((above - spread) * ROOT) / math.erfc(above * ROOT)
    return math.exp(min(50.0, middle + spread * spread / 2)) * longer


def _fit_history(history: History, under_way: list[Running], percent: float) -> Lengths:
    """Of a batch of which nothing has ended yet. That it has not is what is known of it: the older those under way, the
    less likely is a level at which they would have ended.
    """
    spread = max(_EVEN, math.sqrt(history.within))
    tail = max(_EVEN, history.tail)
    level, variance = history.level, _between(history)
    if under_way:
        level, variance = _level(level, variance, spread, tail, under_way, percent)
    return Lengths(level - spread * spread / 2, spread, tail, tail, math.exp(level), math.sqrt(variance), 0.0)


def _level(
    level: float, variance: float, spread: float, tail: float, under_way: list[Running], percent: float
) -> tuple[float, float]:
    """The mean and the variance of what the level of a batch may be, of which so many jobs have lasted until now."""
    few = min(1.0, _ALIKE / sum(group.jobs for group in under_way))
    ages = [(math.log(max(SHORTEST, group.age)), group.jobs * few) for group in under_way]
    # at a level below this the oldest would have ended: only above it is it worth looking for those outside
    least = max(level, ages[-1][0] - tail)
    points = [(level + math.sqrt(variance) * far, (1 - _OUTSIDE) / _POINTS) for far in _LIKELY]
    beyond = [least + (number + 0.5) * _STEP for number in range(_POINTS)]
    points += [(point, _OUTSIDE * math.exp((level - point) / _AGAIN) * _STEP / _AGAIN) for point in beyond]
    part = min(100.0, percent) / 100
    off = math.hypot(_REPORTED[0] * (1 - part), _REPORTED[1])
    reported = max(level, ages[-1][0] - math.log(part)) if percent >= _LEAST else None  # it may only make it longer
    total = first = second = 0.0
    for point, before in points:
        weight = before
        for age, jobs in ages:
            above = age - point + spread * spread / 2
            weight *= (0.5 * math.erfc(above / (tail if above > 0 else spread) * ROOT)) ** jobs
        if reported is not None:
            weight *= math.exp(-(((point - reported) / off) ** 2) / 2)
        total, first, second = total + weight, first + weight * point, second + weight * point * point
    if total <= 0:
        return least, _AGAIN * _AGAIN
    return first / total, max(variance, second / total - (first / total) ** 2)


def _unseen(completed: int, others: float, tail: float) -> float:
    """How much longer all may take, as a logarithm: for all that is known of a kind without a history."""
    sort = math.log1p((_OTHER - 1) * math.exp(-completed / _FEW))
    wave = math.exp(-completed / others) if others else 0.0
    return math.hypot(sort, _SKEW * tail**3 * (1 + _WAVE * wave))


def _between(history: History) -> float:
    """How far, as a variance of logarithms, the next batch may be from those before. A few say little about that."""
    return max(_BETWEEN, history.between) * (1 + 2 / history.batches) + 0.1 / history.batches


def _usual_spread(pace: Pace) -> float:
    """What a batch shows of it, and before that what is usual: their geometric mean, for it may be small or large."""
    usual, weight = _USUAL
    seen = max(0, pace.completed - 1)
    logs = seen * math.log(max(_EVEN, math.sqrt(pace.variance))) + weight * math.log(usual)
    return math.exp(logs / (seen + weight))


def _with_running(
    pace: Pace, jobs: float, under_way: list[Running], middle: float, spread: float, usual: float, weight: float
) -> tuple[float, float]:
    """Middle and spread of a normal distribution (of logarithms) of which some values are only known to be larger than
    something. Each of those is replaced by what is to be expected of it, and then all is done again.
    """
    ages = [(math.log(max(SHORTEST, group.age)), group.jobs) for group in under_way]
    everything = jobs + sum(others for _, others in ages)
    squares = jobs * (pace.variance + pace.log1 * pace.log1)
    for _ in range(_ROUNDS):
        total, total_squares = jobs * pace.log1, squares
        for age, others in ages:
            above = (age - middle) / spread
            hazard = (
                math.exp(-above * above / 2) * _DENSITY / (0.5 * math.erfc(above * ROOT))
                if above < _MANY
                else above + 1 / above
            )
            likely = middle + spread * hazard
            total += others * likely
            total_squares += others * (likely * likely + spread * spread * max(0.0, 1 + hazard * (above - hazard)))
        before, middle = middle, total / everything
        rest = max(0.0, total_squares - everything * middle * middle)
        spread = max(_EVEN, math.sqrt((rest + usual * usual * weight) / (everything + weight)))
        if abs(middle - before) < _CLOSE:
            break
    return middle, spread


def _stretched(lengths: Lengths, under_way: list[Running]) -> Lengths:
    """What runs already shows how far the tail reaches at least."""
    oldest = max((group.age for group in under_way), default=0.0)
    reach = (math.log(max(SHORTEST, oldest)) - lengths.middle) / _SURE
    tail = max(_EVEN, lengths.tail, reach)
    return structs.replace(lengths, tail=tail, reach=max(tail, lengths.reach))
