"""What this process counts: plain numbers that whoever does something adds to. `exposition.py` shows them.

There is no lock and nothing to look up: all of it happens in one event loop, some of it at each write to a socket.
"""

import time
from bisect import bisect_left

LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds. The window (`HEADWAY_WINDOW`) is one of them: what is below was not waiting for it."""


LATE = 0.02
"""Seconds by which the event loop may be late for what is due."""


class Metrics:
    """All numbers only grow, but for `longest_stall`."""

    __slots__ = (
        "bytes",
        "closed",
        "deliveries",
        "frames",
        "lag_counts",
        "lag_sum",
        "longest_stall",
        "looks",
        "merges",
        "opened",
        "readings",
        "refusals",
        "resets",
        "resumes",
        "stalls",
        "subscriptions",
    )

    def __init__(self) -> None:
        self.frames = dict.fromkeys(("applied", "dropped", "early", "gap", "large", "foreign"), 0)
        """Received from Redis, by what became of them."""
        self.bytes = 0
        """Of events and messages, written."""
        self.deliveries = 0
        """Deltas, snapshots and estimates made anew, each for each of its readers."""
        self.merges = 0
        """Those among them that hold more than one, because their reader had not taken the last."""
        self.lag_counts = [0] * (len(LAG_BOUNDS) + 1)
        self.lag_sum = 0.0
        self.resumes = dict.fromkeys(("memory", "postgresql", "snapshot"), 0)
        """Readers that brought an event id, by where what they lack came from."""
        self.resets = dict.fromkeys(("epoch", "ahead", "invalid_id", "filters"), 0)
        self.opened = dict.fromkeys(("events", "websocket", "changes"), 0)
        """Connections, by what they speak; of `changes`, replies that began to be sent."""
        self.closed = {speaks: dict.fromkeys(ENDS, 0) for speaks in self.opened}
        self.refusals = dict.fromkeys(
            ("process", "owner", "address", "unauthenticated", "draining", "overloaded", "internal"), 0
        )
        self.readings = dict.fromkeys(("answered", "failed"), 0)
        """Questions to PostgreSQL."""
        self.looks = dict.fromkeys(("check", "poll"), 0)
        """Comparisons of all topics with PostgreSQL, while Redis is there and while it is not."""
        self.subscriptions = 0
        self.stalls = 0
        self.longest_stall = 0.0

    def came_late(self, seconds: float) -> None:
        """The event loop, to something that was due."""
        self.longest_stall = max(self.longest_stall, seconds)
        if seconds > LATE:
            self.stalls += 1

    def delivered(self, committed: int, readers: int = 1) -> None:
        """So many were just written what was committed then, in milliseconds since 1970; 0: nobody knows when."""
        if committed and readers:
            lag = max(0.0, time.time() - committed / 1000)  # the clock is another machine's
            self.lag_counts[bisect_left(LAG_BOUNDS, lag)] += readers
            self.lag_sum += lag * readers


ENDS = (
    "finished",
    "lifetime",
    "token_expired",
    "draining",
    "too_many_connections",
    "deleted",
    "misbehaved",
    "stuck",
    "gone",
)
"""Of connections: what they were told last, or that they took nothing any more, or just ended."""

UNCOUNTED = Metrics()
"""For whoever is not part of a process that is looked at."""
