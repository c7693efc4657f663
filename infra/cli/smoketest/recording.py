"""What a stream sent, written down: for checks that look at every event."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
from msgspec import Struct

from infra.cli.api import Api
from infra.cli.smoketest.checks import Wrong
from infra.cli.sse import Event, Parser

_SILENCE = 40.0
"""Seconds, above two heartbeats."""

Until = Callable[[Event], bool]


class Recording(Struct):
    status: int
    headers: Mapping[str, str]
    beginning: bytes
    events: list[Event]
    ended: bool
    """By the server, and not by us."""

    def deltas(self) -> Iterator[list[Event]]:
        """Each ends with the event that carries an id; pings and estimates in between are left out."""
        delta: list[Event] = []
        for event in self.events:
            if event.name == "ping" or (not delta and _is_estimate(event)):
                continue
            delta.append(event)
            if event.id is not None:
                yield delta
                delta = []
        if delta:
            yield delta

    def ids(self) -> list[str]:
        return [event.id for event in self.events if event.id is not None]


def record(
    api: Api,
    path: str,
    *,
    last_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    until: Until = lambda _: False,
    seconds: float = 30,
) -> Recording:
    """From the beginning until an event after which `until` has enough, or until the server ends it.

    Raises Wrong after `seconds`, and httpx.HTTPError.
    """
    given = {"Accept": "text/event-stream"} | dict(api.headers() if headers is None else headers)
    given |= {"Last-Event-ID": last_id} if last_id else {}
    deadline = time.monotonic() + seconds
    parser = Parser()
    timeout = httpx.Timeout(30.0, read=min(_SILENCE, seconds))
    with api.client.stream("GET", path, headers=given, timeout=timeout) as response:
        recording = Recording(response.status_code, response.headers, b"", [], ended=False)
        for chunk in response.iter_raw():
            recording.beginning += chunk[: 64 - len(recording.beginning)]
            for event in parser.feed(chunk):
                recording.events.append(event)
                if until(event):
                    return recording
            if time.monotonic() > deadline:
                raise Wrong(f"not over after {seconds:.0f} s; the last event was {_brief(recording.events)}")
        recording.ended = True
    return recording


def _brief(events: list[Event]) -> str:
    if not events:
        return "none"
    data: Any = events[-1].data
    return f"`{events[-1].name}` of a batch that is {data.get('status')}" if isinstance(data, dict) else events[-1].name


def _is_estimate(event: Event) -> bool:
    return event.name == "progress" and event.id is None and not event.data.get("jobs")
