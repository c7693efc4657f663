"""Whether what was said one after the other also came one after the other."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from msgspec import Struct

LUMP = 0.7
"""Seconds: more than the 50 ms in which changes are collected, or than a hiccup of the network."""

_TOGETHER = 0.01
"""Seconds between two pieces that came as one."""
_WINDOW = 0.05
"""Seconds: what was made within them may leave together."""


class Piece(Struct, frozen=True):
    """Of a stream. In seconds, each by a clock of its own: `made` by the server's, `came` by ours."""

    made: float
    came: float


def longest_wait(pieces: Sequence[Piece]) -> float:
    """By how much the latest of them was later than the soonest, in seconds: a difference between the clocks, and the
    way itself, are in each of them and so fall out. Of what comes in a lump the first has waited longest.
    """
    delays = [piece.came - piece.made for piece in pieces]
    return max(delays) - min(delays)


def skew(pieces: Sequence[Piece]) -> float:
    """Seconds that our clock is ahead of the server's, about: those that came soonest came at once."""
    delays = sorted(piece.came - piece.made for piece in pieces)
    return median(delays[: max(1, len(delays) // 2)])


def lumps(pieces: Sequence[Piece]) -> int:
    """How many times something came: what came together counts once."""
    return _times((piece.came for piece in pieces), _TOGETHER)


def gathered(pieces: Sequence[Piece]) -> bool:
    """Whether most of what was made one after the other came together, however short it waited for that. What is only
    slow comes late, but each for itself.
    """
    return 2 * lumps(pieces) <= _times((piece.made for piece in pieces), _WINDOW)


def _times(moments: Iterable[float], together: float) -> int:
    return 1 + sum(later - earlier > together for earlier, later in pairwise(sorted(moments)))
