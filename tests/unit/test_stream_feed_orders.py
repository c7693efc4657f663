"""Feeds in any order of what is heard, asked and read: everybody ends at the truth."""

from random import Random
from uuid import UUID

import pytest

from services.stream import feed as feed_module
from services.stream.feed import Feed, Reading, Standing
from tests.support.watchers import EPOCH, OWNER, Watcher, batch_id, reading, standing

_LATEST, _ACTIVE = 3, 4


class World:
    """PostgreSQL with one owner's batches, what was published of them, and the one question that is being answered."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.batches: dict[int, tuple[int, bool]] = {}
        self.frames: list[tuple[int, Standing | None]] = []
        self.feed = Feed(OWNER)
        self.asked: tuple[Reading, int] | None = None
        self.epoch = EPOCH
        self._created = 0
        self.ask()
        self.answer()

    @property
    def shown(self) -> dict[str, int]:
        latest = sorted(self.batches)[-_LATEST:]
        active = sorted(number for number, (_, final) in self.batches.items() if not final)[-_ACTIVE:]
        return {str(batch_id(number)): self.batches[number][0] for number in {*latest, *active}}

    @property
    def versions(self) -> dict[UUID, int]:
        """Of what is shown, and of what the feed knows."""
        wanted = {*self.shown, *map(str, self.feed.standing)}
        every = {batch_id(number): version for number, (version, _) in self.batches.items()}
        return {one: version for one, version in every.items() if str(one) in wanted}

    def commit(self) -> None:
        """Something happens to a batch; to very old ones as well."""
        if not self.batches or self.chance.random() < 0.25:
            self._created += 1
            number, now = self._created, (1, False)
        else:
            number = self.chance.choice(list(self.batches))
            version, final = self.batches[number]
            if final and self.chance.random() < 0.6:
                del self.batches[number]
                self.frames.append((number, None))
                return
            now = (version + 1, not final and self.chance.random() < 0.4)
        self.batches[number] = now
        self.frames.append((number, standing(number, now[0], final=now[1])))

    def hear(self, place: int) -> None:
        number, seen = self.frames.pop(place)
        if seen is None:
            self.feed.delete(batch_id(number))
        else:
            self.feed.touch(batch_id(number), seen)

    def ask(self) -> None:
        if self.asked is None:
            wanted = {*self.shown, *map(str, self.feed.standing)}
            found = [
                standing(number, version, final=final)
                for number, (version, final) in self.batches.items()
                if str(batch_id(number)) in wanted
            ]
            self.asked = reading(*found, epoch=self.epoch), self.feed.version

    def answer(self) -> None:
        if self.asked is not None:
            self.feed.apply(*self.asked)
            self.asked = None

    def look(self) -> None:
        """As the hub does it from time to time."""
        if self.feed.differs(self.epoch, self.versions, self.feed.version):
            self.answer()
            self.ask()
            self.answer()


def take_a_step(world: World, watchers: list[Watcher], *, lossy: bool) -> None:
    chance, step = world.chance, world.chance.random()
    if step < 0.4:
        world.commit()
    elif step < 0.7 and world.frames:
        place = chance.randrange(min(3, len(world.frames)))  # a late one, too
        if lossy and step > 0.65:
            world.frames.pop(place)
        else:
            world.hear(place)
    elif step < 0.75:
        world.ask()
    elif step < 0.8:
        world.answer()
    elif step < 0.83 and lossy:
        world.epoch += "'"
    elif step < 0.95:
        world.feed.audience.tell(world.feed.version)
        chance.choice(watchers).read()
    else:
        world.look()


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("lossy", [False, True], ids=["all is heard", "much is lost"])
@pytest.mark.parametrize("forgetful", [False, True], ids=["remembers", "forgets"])
def test_whatever_order_it_comes_in_everybody_ends_at_the_truth(
    seed: int, lossy: bool, forgetful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"LATEST": _LATEST, "ACTIVE": _ACTIVE} | ({"_KEPT": 14, "_DELETED": 3} if forgetful else {})
    for name, value in limits.items():
        monkeypatch.setattr(feed_module, name, value)
    world = World(Random(seed))  # noqa: S311  # the same each time
    watchers: list[Watcher] = []
    for number in range(250):
        if number % 50 == 0:
            watchers.append(Watcher(world.feed, strict=not forgetful))
        take_a_step(world, watchers, lossy=lossy)

    while world.frames:
        world.hear(0)
    world.answer()
    world.look()

    everything = {str(batch_id(number)): version for number, (version, _) in world.batches.items()}
    late = Watcher(world.feed)
    for watcher in [*watchers, late]:
        watcher.read()
        # one that was not shown first, and did not change since, may have come up because others went
        left_out = {str(one) for one, entry in world.feed._entries.items() if entry.number <= watcher.began}
        expected = {one: version for one, version in world.shown.items() if one in watcher.held or one not in left_out}
        assert {one: watcher.held.get(one) for one in expected} == expected
        if not lossy or not forgetful:
            assert watcher.held.items() <= everything.items(), "older ones are told of as well"
    assert late.held == world.shown
    assert not world.feed.differs(world.epoch, world.versions, world.feed.version)
