"""Viewers without a network; and feeds, of batches that are nothing but numbers, with those who watch them."""

from typing import Any
from uuid import UUID

import msgspec

from services.stream.buffer import Buffer
from services.stream.delivery import Position
from services.stream.feed import Feed, Reading, Standing, encode_feed
from services.stream.viewer import Viewer
from shared.event_ids import Filters
from tests.support.sse import Event, Parser

OWNER, EPOCH = "anna", "0badcafe"


def pulled(viewer: Viewer) -> list[bytes]:
    """All that there is at present."""
    chunks = []
    while (chunk := viewer.pull()) is not None:
        chunks.append(chunk)
    return chunks


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
