"""Turns: what a queue starts before a given batch, in the order in which jobs are claimed.

That is: higher priorities first; of one priority the owners in turn, by name, behind the one served last; of one owner
the batches in turn, by id, likewise; one job each time. As headway_claim has it, without any limits.
"""

from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple
from uuid import UUID


class Place(NamedTuple):
    """A batch of which something could be started."""

    batch_id: UUID
    priority: int
    owner: str
    jobs: int
    """That could be."""
    last_owner: str | None
    """Who was served last at this priority."""
    last_batch: UUID | None
    """Which of this owner's was."""


class Ahead(NamedTuple):
    """Jobs that are started before the next one of a batch."""

    higher: int
    siblings: int
    """Of other batches of the same owner and priority, one of each."""
    others: int
    """Of other owners, of the same priority."""


class _Owner:
    def __init__(self, last_batch: UUID | None) -> None:
        self.jobs = 0
        self.batches: list[UUID] = []
        self.last_batch = last_batch


class _Level:
    """Of one priority."""

    def __init__(self, last_owner: str | None) -> None:
        self.jobs = 0
        self.owners: dict[str, _Owner] = {}
        self.last_owner = last_owner
        self.turns: dict[str, int] = {}
        """By owner: how many come before."""
        self.places: dict[UUID, int] = {}
        """By batch: how many of its owner's come before."""
        self.rounds: dict[int, tuple[list[int], list[int]]] = {}

    def arrange(self) -> None:
        order = sorted(self.owners, key=lambda name: (self.last_owner is not None and name <= self.last_owner, name))
        self.turns = {name: turn for turn, name in enumerate(order)}
        for owner in self.owners.values():
            last = owner.last_batch
            owner.batches.sort(key=lambda batch_id: (last is not None and batch_id <= last, batch_id))
            self.places |= {batch_id: place for place, batch_id in enumerate(owner.batches)}

    def others(self, name: str, turns: int) -> int:
        """What other owners have had before this one has its next turn after so many."""
        if turns not in self.rounds:
            jobs = [self.owners[name].jobs for name in self.turns]
            self.rounds[turns] = (
                list(accumulate((min(count, turns + 1) for count in jobs), initial=0)),
                list(accumulate((min(count, turns) for count in jobs), initial=0)),
            )
        more, fewer = self.rounds[turns]
        if (turn := self.turns.get(name)) is None:
            return more[-1]
        return more[turn] + fewer[-1] - fewer[turn + 1]


class Turns:
    """Of one queue, of which these places are known."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._levels: dict[int, _Level] = {}
        for place in places:
            level = self._levels.setdefault(place.priority, _Level(place.last_owner))
            owner = level.owners.setdefault(place.owner, _Owner(place.last_batch))
            owner.batches.append(place.batch_id)
            owner.jobs += place.jobs
            level.jobs += place.jobs
        for level in self._levels.values():
            level.arrange()

    def ahead(self, batch_id: UUID, priority: int, owner: str) -> Ahead:
        """Of one that is not among the places: behind all of its owner's."""
        higher = sum(level.jobs for above, level in self._levels.items() if above > priority)
        level = self._levels.get(priority)
        if level is None:
            return Ahead(higher, 0, 0)
        mine = level.owners.get(owner)
        siblings = level.places.get(batch_id, 0 if mine is None else len(mine.batches))
        return Ahead(higher, siblings, level.others(owner, siblings))
