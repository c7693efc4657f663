"""Estimates against what came true: batches played back through the folding and the estimate that the services use."""

import time
from random import Random
from statistics import mean, median

import msgspec

from shared.eta import forecast
from shared.pace import History, Pace, dump
from tests.bench.results import ROUNDS, Number, Result, Verdict
from tests.bench.servers import Servers
from tests.support.replay import FAMILIES, Reading, play, taught

PARTS = (0.1, 0.5, 0.9)
SIZES = ((20, 1), (20, 4), (50, 8), (100, 2), (200, 8), (500, 16), (500, 64), (1000, 8), (2000, 32), (5000, 64))
"""Jobs, and how many of them run at once."""

_COVERED = 0.8
_WIDTH = 2.0
_LARGE = 1000
_BATCHES = (6, 2)
"""In a round, of each family and size; of sizes from _LARGE on."""

_FOLDS = 20_000
_ESTIMATES = 300


class Judged(msgspec.Struct, frozen=True):
    """What one family came to in one round: every size counts the same."""

    covered: tuple[float, ...]
    """For each of PARTS: the share of ends that were within the interval."""
    width: float
    """The median, in true remainders, after a tenth."""
    error: float
    """The same, of the estimate itself."""
    misses: tuple[tuple[int, int], ...]
    """Sizes of which fewer ends than wanted were within it, or it was wider than wanted; of one round that is rough."""

    @property
    def met(self) -> bool:
        return self.covered[0] >= _COVERED and self.width <= _WIDTH


def measure(_servers: Servers) -> Result:
    judged = {
        (family, known): [_judge(family, number, known=known) for number in range(ROUNDS)]
        for family in FAMILIES
        for known in (False, True)
    }
    goals = []
    for known, words in ((False, "of an unknown kind"), (True, "of a kind with a history")):
        rounds = [[judged[family, known][number] for family in FAMILIES] for number in range(ROUNDS)]
        goals.append(
            Verdict(
                f"families {words} that are covered",
                "families",
                [sum(one.covered[0] >= _COVERED for one in families) for families in rounds],
                len(FAMILIES),
                at_most=False,
            )
        )
        goals.append(
            Verdict(
                f"families {words} that are not too wide",
                "families",
                [sum(one.width <= _WIDTH for one in families) for families in rounds],
                len(FAMILIES),
                at_most=False,
            )
        )
    fold, guess, size = _cost()
    return Result(
        "estimates: when a batch will be done",
        [
            Number("folding one ended job", "µs", fold),
            Number("one estimate", "µs", guess),
            Number("what is kept of a batch", "bytes", size),
        ],
        goals,
        note=_table(judged),
    )


def _judge(family: str, number: int, *, known: bool) -> Judged:
    readings: dict[tuple[int, int], list[list[Reading]]] = {}
    for jobs, slots in SIZES:
        for batch in range(_BATCHES[jobs >= _LARGE]):
            random = Random(f"{family} {jobs} {slots} {number} {batch} {known}")  # noqa: S311  # the same each time
            history = taught(FAMILIES[family], random, 4) if known else None
            size = random.lognormvariate(0, 0.3) if known else 1.0
            lengths = [size * length for length in FAMILIES[family](random, jobs)]
            readings.setdefault((jobs, slots), []).append(list(play(lengths, slots, PARTS, history)))
    first = [reading[0] for batches in readings.values() for reading in batches]
    covered = [
        mean(mean(reading[part].covered for reading in batches) for batches in readings.values())
        for part in range(len(PARTS))
    ]
    misses = [
        size
        for size, batches in readings.items()
        if mean(reading[0].covered for reading in batches) < _COVERED
        or median(reading[0].width for reading in batches) > _WIDTH
    ]
    return Judged(
        tuple(covered),
        median(reading.width for reading in first),
        median(reading.error for reading in first),
        tuple(misses),
    )


def _table(judged: dict[tuple[str, bool], list[Judged]]) -> str:
    """Every family, for itself: what the verdicts count."""
    fewest, most = min(SIZES)[0], max(SIZES)[0]
    lines = [
        f"Batches of {fewest} to {most:,} jobs, 1 to 64 at once, read after a tenth, half and nine tenths of the jobs.",
        f"Goals, after a tenth: {_COVERED:.0%} of the ends within the interval, its median width {_WIDTH:g} times the",
        "true remainder at most. A kind with a history: four batches before, each of another general size.",
        "Bold: missed.",
        "",
        "| job times | history | within, 10 % | 50 % | 90 % | width, 10 % | error, 10 % | sizes that miss |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for (family, known), rounds in judged.items():
        covered = [mean(one.covered[part] for one in rounds) for part in range(len(PARTS))]
        width, error = median(one.width for one in rounds), median(one.error for one in rounds)
        often = [size for size in SIZES if sum(size in one.misses for one in rounds) > ROUNDS / 2]
        first = f"{covered[0]:.0%}" if covered[0] >= _COVERED else f"**{covered[0]:.0%}**"
        wide = f"{width:.2f}" if width <= _WIDTH else f"**{width:.2f}**"
        missed = ", ".join(f"{jobs} on {slots}" for jobs, slots in often) or "none"
        lines.append(
            f"| {family} | {'yes' if known else 'no'} | {first} | {covered[1]:.0%} | {covered[2]:.0%} | {wide} | "
            f"{error:.0%} | {missed} |"
        )
    return "\n".join(lines)


def _cost() -> tuple[list[float], list[float], list[float]]:
    """Microseconds of a folded job and of an estimate, bytes."""
    folds, guesses, sizes = [], [], []
    for number in range(ROUNDS):
        random, now = Random(number), 1_800_000_000.0  # noqa: S311  # the same each time
        pace = Pace(at=now, history=History(9, 1.23456, 0.123456, 0.987654, 1.23456, 0.123456, 0.123456))
        lengths = [random.lognormvariate(0, 1) for _ in range(_FOLDS)]
        begin = time.process_time()
        for length in lengths:
            now += length / 8
            pace.tick(now, 8, moving=True)
            pace.complete(length)
        folds.append((time.process_time() - begin) / _FOLDS * 1e6)
        begin = time.process_time()
        for _ in range(_ESTIMATES):
            forecast(pace, queued=5000, processing=8, now=now)
        guesses.append((time.process_time() - begin) / _ESTIMATES * 1e6)
        sizes.append(float(len(dump(pace))))
    return folds, guesses, sizes
