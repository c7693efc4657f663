"""What a measurement found: numbers of several rounds, and what they say about a goal."""

import math
from collections.abc import Sequence
from statistics import median

from msgspec import Struct

ROUNDS = 5
"""Of each side of a comparison, taken in turns, so that whatever slows the machine down for a while slows both."""


class Number(Struct, frozen=True):
    """One line of the first table: a value for each round."""

    what: str
    unit: str
    values: Sequence[float]


class Verdict(Struct, frozen=True):
    """One line of the second table. `values` as in Number; `limit` None: a ratio or number without a goal."""

    what: str
    unit: str
    values: Sequence[float]
    limit: float | None = None
    at_most: bool = True

    @property
    def met(self) -> bool | None:
        if self.limit is None:
            return None
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    @property
    def value(self) -> float:
        return median(self.values)


class Result(Struct, frozen=True):
    title: str
    numbers: list[Number]
    verdicts: list[Verdict]
    note: str = ""
    """What was left out, and why."""


def ratios(ours: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """Each round against the baseline that was measured right beside it."""
    return [mine / other for mine, other in zip(ours, baseline, strict=True)]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of `values` that at least so many percent of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
