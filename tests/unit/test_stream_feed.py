"""Feeds and viewers without a network: what is told first and then; what is forgotten; all end at the truth."""

from random import Random
from typing import Any
from uuid import UUID

import msgspec
import pytest

from services.stream import feed as feed_module
from services.stream.buffer import Buffer
from services.stream.delivery import Position
from services.stream.feed import ACTIVE, LATEST, Feed, Reading, Standing, encode_feed
from services.stream.frames import CHUNK, error_event
from services.stream.messages import encode_batches
from services.stream.viewer import Viewer
from shared.event_ids import Filters
from tests.support.sse import Event, Parser
from tests.unit.test_stream_topic import pulled

OWNER, EPOCH = "anna", "0badcafe"


def batch_id(number: int) -> UUID:
    return UUID(f"01890000-0000-7000-8000-{number:012x}")


def standing(number: int, version: int = 1, *, final: bool = False, filling: str = "") -> Standing:
    """All that a feed asks of a batch; its number stands in for the rest."""
    data = {"batchId": str(batch_id(number)), "number": number, "version": version, "final": final, "filling": filling}
    return Standing(version, final, msgspec.json.encode(data))


def reading(*batches: Standing, epoch: str = EPOCH) -> Reading:
    return Reading(epoch, {UUID(msgspec.json.decode(one.data)["batchId"]): one for one in batches})


def feed_of(*batches: Standing, buffer: Buffer | None = None) -> Feed:
    feed = Feed(OWNER, buffer)
    feed.apply(reading(*batches), 0)
    return feed


class Watcher:
    """A viewer, and what its reader keeps by the rules of docs/protocol.md."""

    def __init__(self, feed: Feed, encode: Any = encode_feed, *, strict: bool = True) -> None:
        """`strict`: nothing may go back or come twice, which it may where the feed has forgotten that it was told."""
        self._strict = strict
        self.viewer = Viewer(feed, Filters(), encode)
        self.viewer.begin(Position())
        feed.audience.enter(self.viewer)
        self.held: dict[str, int] = {}
        """Version by id."""
        self.deleted: set[str] = set()
        self.began = 0
        """The feed's version that it was shown as a whole."""
        self._parser = Parser()

    def read(self) -> list[Event]:
        """All that there is at present."""
        events = [event for chunk in pulled(self.viewer) for event in self._parser.feed(chunk)]
        assert not self._parser.rest
        for event in events:
            self.take(event)
        return events

    def take(self, event: Event) -> None:
        assert event.id is None
        if event.name == "batches":
            ids = [item["batchId"] for item in event.data["items"]]
            assert ids == sorted(set(ids), reverse=True), "newest first, and each once"
            self.held = {item["batchId"]: item["version"] for item in event.data["items"]}
            self.deleted = set()
            self.began = self.viewer.topic.version
            return
        assert event.name == "batch"
        shown = event.data["batchId"]
        if event.data.get("deleted"):
            self.held.pop(shown, None)
            self.deleted.add(shown)
            return
        assert not self._strict or shown not in self.deleted, "what was deleted never comes back"
        newer = event.data["version"] > self.held.get(shown, 0)
        assert newer or not self._strict, "nothing goes back, nothing comes twice"
        self.held[shown] = event.data["version"]


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def test_a_reader_is_shown_everything_first_the_newest_on_top() -> None:
    watcher = Watcher(feed_of(standing(1), standing(3, final=True), standing(2)))

    (first,) = watcher.read()

    assert first.name == "batches"
    assert [item["number"] for item in first.data["items"]] == [3, 2, 1]
    assert watcher.read() == []


def test_an_owner_without_batches_is_told_so() -> None:
    (first,) = Watcher(feed_of()).read()

    assert first.data == {"items": []}


def test_a_change_is_one_event_for_each_batch_that_changed_in_the_order_of_the_last_changes() -> None:
    feed = feed_of(standing(1), standing(2), standing(3))
    watcher = Watcher(feed)
    watcher.read()

    for number, version in ((1, 2), (2, 2), (1, 3), (4, 1), (2, 3)):
        assert feed.touch(batch_id(number), standing(number, version))
    events = watcher.read()

    assert names(events) == ["batch"] * 3
    assert [(event.data["number"], event.data["version"]) for event in events] == [(1, 3), (4, 1), (2, 3)]


def test_what_is_not_newer_is_no_news() -> None:
    feed = feed_of(standing(1, 5))
    version = feed.version

    assert not feed.touch(batch_id(1), standing(1, 5))
    assert not feed.touch(batch_id(1), standing(1, 4))
    assert not feed.apply(reading(standing(1, 5)), feed.version)
    assert feed.version == version


def test_viewers_share_the_same_bytes() -> None:
    feed = feed_of(standing(1))
    one, other = Watcher(feed).viewer, Watcher(feed).viewer

    assert [id(chunk) for chunk in pulled(one)] == [id(chunk) for chunk in pulled(other)]
    feed.touch(batch_id(1), standing(1, 2))
    assert [id(chunk) for chunk in pulled(one)] == [id(chunk) for chunk in pulled(other)]


def test_a_deletion_is_told_and_nothing_brings_the_batch_back() -> None:
    feed = feed_of(standing(1, final=True), standing(2))
    watcher = Watcher(feed)
    watcher.read()

    assert feed.delete(batch_id(1))
    assert not feed.delete(batch_id(1))
    assert not feed.touch(batch_id(1), standing(1, 9, final=True))  # a frame that was late
    (event,) = watcher.read()

    assert event.data == {"batchId": str(batch_id(1)), "deleted": True}
    assert [item["number"] for item in Watcher(feed).read()[0].data["items"]] == [2]


def test_a_deletion_of_a_batch_that_was_not_shown_is_told_as_well() -> None:
    feed = feed_of(standing(2))
    watcher = Watcher(feed)
    watcher.read()

    assert feed.delete(batch_id(1))

    assert watcher.read()[0].data == {"batchId": str(batch_id(1)), "deleted": True}


def test_a_reading_that_lacks_a_batch_says_that_it_was_deleted() -> None:
    feed = feed_of(standing(1, final=True), standing(2))
    watcher = Watcher(feed)
    watcher.read()

    assert feed.apply(reading(standing(2)), feed.version)

    assert watcher.read()[0].data == {"batchId": str(batch_id(1)), "deleted": True}


def test_a_reading_that_was_begun_before_a_batch_came_up_says_nothing_of_it() -> None:
    feed = feed_of(standing(1))
    asked_at = feed.version
    feed.touch(batch_id(2), standing(2))

    assert not feed.apply(reading(standing(1)), asked_at)
    assert [item["number"] for item in Watcher(feed).read()[0].data["items"]] == [2, 1]


def test_a_batch_that_finished_unheard_among_many_later_ones_was_not_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "LATEST", 2)
    feed = feed_of(standing(1), standing(2, final=True), standing(3, final=True))
    watcher = Watcher(feed)
    watcher.read()
    assert batch_id(1) in feed.standing

    # one that is neither active nor among the latest is in a reading because it was asked for
    assert feed.apply(
        reading(standing(1, 2, final=True), standing(2, final=True), standing(3, final=True)), feed.version
    )

    assert [(event.data["number"], event.data["version"]) for event in watcher.read()] == [(1, 2)]


def test_more_deletions_than_are_remembered_lead_to_everything_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_DELETED", 100)
    feed = feed_of(*(standing(number, final=True) for number in range(200)))
    slow, quick = Watcher(feed), Watcher(feed)
    slow.read(), quick.read()

    for number in range(100, 200):
        feed.delete(batch_id(number))
    assert set(names(quick.read())) == {"batch"}
    for number in range(150, 199):
        feed.delete(batch_id(number - 100))

    assert len(feed._entries) == 151, "the feed remembers more than it should"
    assert set(names(quick.read())) == {"batch"}
    assert names(slow.read()) == ["batches"]
    assert slow.held == {str(batch_id(number)): 1 for number in [*range(1, 50), 99]}
    assert quick.held == {}


def test_what_a_long_reading_makes_the_feed_forget_is_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LATEST": 1, "ACTIVE": 1, "_KEPT": 4}.items():
        monkeypatch.setattr(feed_module, name, value)
    finished = [standing(number, final=True) for number in (1, 2, 3, 4)]
    feed = feed_of(*finished)
    watcher = Watcher(feed)
    watcher.read()

    feed.apply(reading(standing(0), *finished), feed.version)

    assert [event.data["number"] for event in watcher.read()] == [0]


def test_another_epoch_is_everything_anew_for_everybody() -> None:
    feed = feed_of(standing(1, 7), standing(2, 7))
    quick, slow = Watcher(feed), Watcher(feed)
    quick.read()
    feed.delete(batch_id(2))

    assert feed.differs("other", {batch_id(1): 3}, feed.version)
    assert feed.apply(reading(standing(1, 3), standing(2, 6), epoch="other"), feed.version)

    for watcher in (quick, slow):
        assert names(watcher.read()) == ["batches"]
        assert watcher.held == {str(batch_id(1)): 3, str(batch_id(2)): 6}


@pytest.mark.parametrize("before", [False, True])
def test_postgresql_that_lost_something_in_the_same_epoch_is_believed_if_it_was_asked_later(before: bool) -> None:
    feed = feed_of(standing(1, 4))
    asked_at = feed.version
    feed.touch(batch_id(1), standing(1, 5))
    watcher = Watcher(feed)
    watcher.read()

    assert feed.differs(EPOCH, {batch_id(1): 4}, asked_at if before else feed.version) is not before
    assert feed.apply(reading(standing(1, 4)), asked_at if before else feed.version) is not before

    assert names(watcher.read()) == ([] if before else ["batches"])
    assert watcher.held == {str(batch_id(1)): 5 if before else 4}


def test_a_comparison_finds_what_is_new_changed_or_gone_and_nothing_else() -> None:
    feed = feed_of(standing(1, 4), standing(2, 4, final=True))
    now = feed.version
    both = {batch_id(1): 4, batch_id(2): 4}

    assert not feed.differs(EPOCH, both, now)
    assert feed.differs(EPOCH, both | {batch_id(3): 1}, now)
    assert feed.differs(EPOCH, both | {batch_id(1): 5}, now)
    assert feed.differs(EPOCH, {batch_id(1): 4}, now)
    feed.touch(batch_id(3), standing(3))
    assert not feed.differs(EPOCH, both, now)  # it may have come up after PostgreSQL looked
    feed.delete(batch_id(2))
    assert not feed.differs(EPOCH, {batch_id(1): 4, batch_id(3): 1}, feed.version)


def test_a_reader_begins_with_the_latest_and_a_bounded_number_of_active_ones() -> None:
    feed, active = feed_of(), ACTIVE + 100
    for number in range(active + LATEST + 30):
        feed.touch(batch_id(number), standing(number, final=number >= active))

    shown = [item["number"] for item in Watcher(feed).read()[0].data["items"]]

    assert shown == [*range(active + LATEST + 29, active + 29, -1), *range(active - 1, 99, -1)]


@pytest.mark.parametrize("final", [False, True], ids=["active", "finished"])
def test_memory_is_bounded_and_what_is_shown_first_is_never_forgotten(
    final: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "ACTIVE", 60)
    monkeypatch.setattr(feed_module, "_KEPT", 2 * (LATEST + 60))
    feed = feed_of(*(standing(number, final=True) for number in range(5000, 5000 + LATEST)))
    watcher = Watcher(feed)
    watcher.read()

    for number in range(1000):
        feed.touch(batch_id(number), standing(number, final=final))
        feed.audience.tell(feed.version)
        assert names(watcher.read()) == ["batch"], "who keeps up is not shown everything anew"

    assert len(feed.standing) <= 2 * (LATEST + 60)
    shown = [item["number"] for item in Watcher(feed).read()[0].data["items"]]
    assert shown == [*range(4999 + LATEST, 4999, -1), *([] if final else range(999, 939, -1))]


def test_a_long_delivery_holds_room_only_while_somebody_is_in_it() -> None:
    buffer = Buffer(CHUNK)
    feed = feed_of(*(standing(number, filling="x" * 1000) for number in range(200)), buffer=buffer)
    watcher = Watcher(feed)

    watcher.viewer.pull()
    assert buffer.held > 200_000
    while watcher.viewer.pull() is not None:
        pass

    assert buffer.held == 0


def test_a_farewell_is_the_last_event() -> None:
    feed = feed_of(standing(1))
    watcher = Watcher(feed)
    pulled(watcher.viewer)

    watcher.viewer.dismiss("draining", error_event("draining", "bye", retryable=True))
    feed.touch(batch_id(1), standing(1, 2))

    assert b"draining" in pulled(watcher.viewer)[-1]
    assert watcher.viewer.over


def test_over_a_websocket_it_is_the_same_in_another_envelope() -> None:
    feed = feed_of(standing(1), standing(2))
    watcher = Watcher(feed, encode_batches)
    said = [msgspec.json.decode(chunk) for chunk in pulled(watcher.viewer)]
    feed.touch(batch_id(1), standing(1, 2))
    feed.delete(batch_id(2))
    said += [msgspec.json.decode(chunk) for chunk in pulled(watcher.viewer)]

    assert [(one["type"], one["topic"], one["id"]) for one in said] == [
        ("batches", "batches", None),
        ("batch", "batches", None),
        ("batch", "batches", None),
    ]
    assert [item["number"] for item in said[0]["data"]["items"]] == [2, 1]
    assert said[2]["data"] == {"batchId": str(batch_id(2)), "deleted": True}


# -- in any order -------------------------------------------------------------------------------------------------

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
