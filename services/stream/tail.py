"""The tail of a batch's log: its newest lines, as many as are worth keeping for those who connect."""

from collections import deque
from collections.abc import Sequence
from itertools import islice

from services.stream.advance import Part
from shared.event_ids import LOGS_MAX

BYTES_MAX = 1024 * 1024
"""A thousand lines of the longest kind would be eight times this, for each watched batch."""


class Tail:
    """`count` is how many lines the batch has at all. Those kept are the newest, without a gap between them."""

    def __init__(self) -> None:
        self.count = 0
        self._lines: deque[Part] = deque()
        self._bytes = 0

    def extend(self, fresh: Sequence[Part], count: int) -> None:
        """Newer lines, oldest first; `count` from now on. Missing ones are the older ones, so those kept go too."""
        if len(fresh) < count - self.count:
            self._lines.clear()
            self._bytes = 0
        self.count = count
        self._lines.extend(fresh)
        self._bytes += sum(len(line.data) for line in fresh)
        while len(self._lines) > LOGS_MAX or (self._bytes > BYTES_MAX and len(self._lines) > 1):
            self._bytes -= len(self._lines.popleft().data)

    def last(self, number: int) -> list[bytes]:
        """Up to `number` of the newest lines, oldest first."""
        kept = len(self._lines)
        return [line.data for line in islice(self._lines, max(0, kept - number), kept)]

    def count_at(self, version: int) -> int | None:
        """How many lines the batch had at `version`; None if that is further back than what is kept."""
        if len(self._lines) < self.count and (not self._lines or version < self._lines[0].version):
            return None
        newer = 0
        for line in reversed(self._lines):
            if line.version <= version:
                break
            newer += 1
        return self.count - newer
