"""A strict reader of an owner's feed, which takes nothing for granted that docs/protocol.md does not say."""

from typing import Any
from uuid import UUID

from tests.support.sse import JSON, Event, Record, Stream

_OTHERS = {"ping", "timeout", "error"}


class FeedRecord(Record):
    """The batches that a reader has, and that it was told so by the rules."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: dict[str, JSON] = {}
        self.deleted: set[str] = set()
        self._begun = False

    def cut(self) -> None:
        super().cut()
        self._begun = False

    def take(self, event: Event) -> None:
        self.events.append(event)
        assert event.id is None, "a feed has no ids"
        if event.name in _OTHERS:
            return
        if event.name == "batches":
            ids = [item["batchId"] for item in event.data["items"]]
            assert ids == sorted(set(ids), reverse=True), "newest first, and each once"
            self.batches, self.deleted, self._begun = dict(zip(ids, event.data["items"], strict=True)), set(), True
            return
        assert event.name == "batch"
        assert self._begun, "everything comes first"
        batch_id = event.data["batchId"]
        assert batch_id not in self.deleted, "what was deleted comes back"
        if "deleted" in event.data:
            assert event.data == {"batchId": batch_id, "deleted": True}
            self.deleted.add(batch_id)
            self.batches.pop(batch_id, None)
            return
        assert event.data["version"] > self.batches.get(batch_id, {"version": 0})["version"]
        self.batches[batch_id] = event.data


class FeedStream(Stream):
    """One connection to `GET /api/stream`."""

    record: FeedRecord

    def __init__(self, address: str, token: str | None, **options: Any) -> None:
        super().__init__(address, "", token, record=options.pop("record", FeedRecord()), path="/api/stream", **options)

    def all(self) -> list[str]:
        """The ids that come first."""
        (event,) = [event for event in self.until("batches") if event.name not in _OTHERS]
        return [item["batchId"] for item in event.data["items"]]

    def to(self, batch_id: UUID | str, version: int | None) -> JSON | None:
        """What it says of the batch once it is at that version; None: once it is deleted."""
        shown, batches = str(batch_id), self.record.batches
        while shown not in self.record.deleted if version is None else batches.get(shown, {}).get("version") != version:
            self.next()
            batches = self.record.batches
        return batches.get(shown)

    @property
    def names(self) -> list[str]:
        """Of the events so far."""
        return [event.name for event in self.record.events]
