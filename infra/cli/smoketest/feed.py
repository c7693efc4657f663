"""The owner's feed: one batch in it, from its creation to its deletion."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from infra.cli.api import Api
from infra.cli.smoketest.checks import Checks, Wrong, expect, same
from infra.cli.sse import Event, Parser

Json = dict[str, Any]

_JOBS = [{"name": f"job {number}", "params": {"steps": 4, "stepMs": 50}} for number in (1, 2)]
_ESTIMATES = {"waiting", "etaSeconds", "etaLow", "etaHigh"}


class Told:
    """What a feed has told, and that it keeps to the rules: `take` raises Wrong if it does not."""

    def __init__(self) -> None:
        self.batches: dict[str, Json] = {}
        self.deleted: set[str] = set()
        self._begun = False

    def take(self, event: Event) -> None:
        expect(event.id is None, f"`{event.name}` carries an id")
        if event.name == "ping":
            return
        expect(event.name in {"batches", "batch"}, f"there is a `{event.name}`: {event.data}")
        if event.name == "batches":
            self.batches = {batch["batchId"]: batch for batch in event.data["items"]}
            self._begun = True
            return
        expect(self._begun, "it does not begin with `batches`")
        batch_id = event.data["batchId"]
        expect("jobs" not in event.data, "it tells of jobs")
        expect(batch_id not in self.deleted, "a batch that was deleted is told of again")
        if event.data.get("deleted"):
            self.deleted.add(batch_id)
            self.batches.pop(batch_id, None)
            return
        before, version = self.batches.get(batch_id, {"version": 0})["version"], event.data["version"]
        expect(version > before, f"version {version} follows {before}")
        self.batches[batch_id] = event.data


def check_feed(checks: Checks, api: Api, patience: float) -> None:
    """`patience` in seconds, for a small batch."""
    with checks.check("the owner's feed shows all, then a batch from its creation to its deletion"):
        told = Told()
        with _watching(api, told, patience) as events:
            expect(any(event.name == "batches" for event in events), "it does not begin with `batches`")
            batch_id = api.create_batch({"kind": "rehearsal", "title": "smoke test, feed", "jobs": _JOBS})["batchId"]
            seen = _seen_to_the_end(events, batch_id)
            expect(len(seen) > 1, "nothing was told between the beginning and the end")
            same(seen[-1]["status"], "COMPLETED", "the status")
            same(_comparable(seen[-1]), _comparable(api.batch(batch_id)), "the batch")
            api.delete(batch_id)
            expect(any(batch_id in told.deleted for _ in events), "the deletion is not told")


def _seen_to_the_end(events: Iterator[Event], batch_id: str) -> list[Json]:
    seen: list[Json] = []
    for event in events:
        if event.name == "batch" and event.data["batchId"] == batch_id:
            seen.append(event.data)
            if event.data["finishedAt"] is not None:
                break
    return seen


@contextmanager
def _watching(api: Api, told: Told, seconds: float) -> Iterator[Iterator[Event]]:
    """The events, each after `told` has taken it. They raise Wrong when there are none within `seconds` in all."""
    headers = {"Accept": "text/event-stream"} | api.headers()
    timeout = httpx.Timeout(30.0, read=seconds)
    with api.client.stream("GET", "/api/stream", headers=headers, timeout=timeout) as response:
        same(response.status_code, 200, "the status")
        kind = response.headers.get("content-type", "")
        same(kind.partition(";")[0], "text/event-stream", "Content-Type")
        yield _events(response, told, time.monotonic() + seconds)


def _events(response: httpx.Response, told: Told, until: float) -> Iterator[Event]:
    parser = Parser()
    for chunk in response.iter_raw():
        for event in parser.feed(chunk):
            told.take(event)
            yield event
        if time.monotonic() > until:
            raise Wrong("what should be told did not come in time")
    raise Wrong("it ended")


def _comparable(batch: Json) -> Json:
    return {name: value for name, value in batch.items() if name not in _ESTIMATES}
