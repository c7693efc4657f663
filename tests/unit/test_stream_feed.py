"""Feeds and viewers without a network: what is told first and then, and what is forgotten."""

import msgspec
import pytest

from services.stream import feed as feed_module
from services.stream.buffer import Buffer
from services.stream.feed import ACTIVE, LATEST
from services.stream.frames import CHUNK, error_event
from services.stream.messages import encode_batches
from tests.support.sse import Event
from tests.support.watchers import EPOCH, Watcher, batch_id, feed_of, pulled, reading, standing


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
