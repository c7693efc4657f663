"""What a queue starts before a batch, beside a claim played through job by job."""

from random import Random
from uuid import UUID

import pytest

from shared.turns import Ahead, Place, Turns

Level = dict[str, dict[UUID, int]]
"""Of one priority: jobs by batch, by owner."""


def of(places: list[Place]) -> dict[int, Level]:
    levels: dict[int, Level] = {}
    for place in places:
        levels.setdefault(place.priority, {}).setdefault(place.owner, {})[place.batch_id] = place.jobs
    return levels


def behind(last: object, names: list[object]) -> list[object]:
    """In turn: those behind the one that was last, then the others."""
    return sorted(names, key=lambda name: (last is not None and name <= last, name))  # type: ignore[operator]


def started_before(places: list[Place], mine: Place) -> int:
    """One claim after the other, until one of mine is started."""
    levels = of(places)
    last_owner = {place.priority: place.last_owner for place in places}
    last_batch = {(place.priority, place.owner): place.last_batch for place in places}
    started = 0
    while True:
        priority = max(level for level, owners in levels.items() if any(any(some.values()) for some in owners.values()))
        owners = levels[priority]
        owner = behind(last_owner[priority], [name for name, some in owners.items() if any(some.values())])[0]
        assert isinstance(owner, str)
        some = owners[owner]
        batch = behind(last_batch[priority, owner], [batch_id for batch_id, jobs in some.items() if jobs])[0]
        assert isinstance(batch, UUID)
        if batch == mine.batch_id:
            return started
        some[batch] -= 1
        last_owner[priority], last_batch[priority, owner] = owner, batch
        started += 1


@pytest.mark.parametrize("seed", range(60))
def test_as_many_as_a_claim_starts_before(seed: int) -> None:
    chance = Random(seed)  # noqa: S311  # nothing depends on its being a surprise
    last_owner = {priority: chance.choice([None, "a", "b", "bb", "z"]) for priority in range(3)}
    numbers = chance.sample(range(1, 100), 14)
    last_batch = {(p, owner): chance.choice([None, *map(numbered, numbers)]) for p in range(3) for owner in "abc"}
    places = []
    for number in numbers:
        priority, owner = chance.randrange(3), chance.choice("abc")
        # each batch has many, as those ahead of it are taken to have
        jobs = chance.choice([20, 50])
        places.append(Place(numbered(number), priority, owner, jobs, last_owner[priority], last_batch[priority, owner]))
    turns = Turns(places)
    for mine in places:
        assert sum(turns.ahead(mine.batch_id, mine.priority, mine.owner)) == started_before(places, mine)


def numbered(number: int) -> UUID:
    return UUID(int=number)


def test_an_owner_with_little_takes_no_more_turns_than_that() -> None:
    places = [
        Place(numbered(1), 0, "a", 2, None, None),
        Place(numbered(2), 0, "b", 50, None, None),
        Place(numbered(3), 0, "b", 50, None, None),
        Place(numbered(4), 0, "b", 50, None, None),
        Place(numbered(5), 0, "b", 50, None, None),
    ]
    assert Turns(places).ahead(numbered(5), 0, "b") == Ahead(higher=0, siblings=3, others=2)


def test_one_that_has_no_place_is_behind_all_of_its_owners() -> None:
    places = [
        Place(numbered(1), 0, "a", 9, None, None),
        Place(numbered(2), 0, "b", 9, None, None),
        Place(numbered(3), 7, "b", 5, None, None),
    ]
    turns = Turns(places)
    assert turns.ahead(numbered(9), 0, "b") == Ahead(higher=5, siblings=1, others=2)
    assert turns.ahead(numbered(9), 0, "c") == Ahead(higher=5, siblings=0, others=2)
    assert turns.ahead(numbered(9), 1, "a") == Ahead(higher=5, siblings=0, others=0)
    assert Turns([]).ahead(numbered(9), 0, "a") == Ahead(0, 0, 0)
