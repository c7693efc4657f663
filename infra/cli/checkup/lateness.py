"""Whether what was said one after the other also came one after the other."""

from collections.abc import Sequence
from statistics import median

from msgspec import Struct

LUMP = 0.7
"""Seconds: more than the 50 ms in which changes are collected, or than a hiccup of the network."""


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
