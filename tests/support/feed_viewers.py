"""Viewers of an owner's feed, who look at one batch in it."""

from collections.abc import Collection
from typing import Any

from tests.support.history import ERRORS, Connection, History, Recording
from tests.support.sse import JSON, Event, Stream, certain
from tests.support.viewers import PEEK, Viewer


class FeedViewer(Viewer):
    """Its feed has no ids: whoever comes back is shown everything, and then what changes."""

    _seen = 0
    _ended = False

    @property
    def version(self) -> int:
        return self._seen

    def check(self, history: History, *, finished: bool, **allowed: Any) -> None:
        check_feed(self.recording, str(self._batch_id), history, finished=finished, **allowed)

    def _watch(self, connection: Connection) -> None:
        with Stream(next(self._addresses), self._batch_id, self._token, path="/api/stream") as stream:
            connection.status = stream.status
            assert stream.status == 200, f"{stream.status} ends an EventSource"
            while not (stream.ended or self._away.is_set() or self._has_all()):
                try:
                    events = stream.chunk(PEEK)
                except TimeoutError:
                    continue
                self._back_after = max([1.0, *(milliseconds / 1000 for milliseconds in stream.parser.retry)])
                for event in events:
                    connection.events.append(event)
                    self._look(event)
                    if self._chance.random() < self._habits.cut:
                        return
            if self._has_all():
                connection.status = 204

    def _look(self, event: Event) -> None:
        for batch in shown(event, str(self._batch_id)):
            self._seen, self._ended = batch["version"], batch["finishedAt"] is not None

    def _has_all(self) -> bool:
        return self._enough.is_set() and self._ended and self._seen == self._last


def shown(event: Event, batch_id: str) -> list[JSON]:
    """The batch, if the event shows it."""
    if event.name == "batches":
        return [batch for batch in event.data["items"] if batch["batchId"] == batch_id]
    return [event.data] if event.name == "batch" and event.data["batchId"] == batch_id else []


def check_feed(
    recording: Recording,
    batch_id: str,
    history: History,
    *,
    finished: bool = True,
    resets: Collection[str] = (),
    errors: Collection[str] = ERRORS,
) -> None:
    """Each batch that was shown was so at that version, and none was older than one before but in a new snapshot.

    `finished`, `errors`: as for `check_recording`; a snapshot of before only where there may be `resets`.
    """
    assert not recording.failure, f"{recording.name}: {recording.failure}"
    last, found = 0, {}
    for connection in recording.connections:
        told = [event for event in connection.events if event.name not in {"ping", "timeout", "error"}]
        assert not told or told[0].name == "batches", f"{recording.name} was not shown everything first"
        for event in connection.events:
            assert event.id is None, "a feed has no ids"
            assert event.name in {"batches", "batch", "ping", "timeout", "error"}
            assert event.name != "error" or event.data["code"] in errors, f"{recording.name} was told {event.data}"
            for batch in shown(event, batch_id):
                version, what = batch["version"], f"{recording.name} at version {batch['version']}"
                found = certain(batch)
                held = [past.by_version[version].batch for past in history.pasts if version in past.by_version]
                assert found in held, f"{what}: the batch never was so"
                if event.name == "batch":
                    assert version > last, f"{what}: it had version {last}"
                else:
                    assert version >= last or resets, f"{what}: it had version {last}, and nothing was taken back"
                last = version
    if finished:
        assert found == history.last.batch, f"{recording.name} never came to the end"
