"""What a stream sent, written down: for checks that look at every event.

Where parts may be killed meanwhile it is what several connections sent, each from the last id of the one before: what
was cut off behind an id is forgotten, and nothing else is.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import httpx
from msgspec import Struct

from infra.cli.api import Api
from infra.cli.smoketest.checks import Wrong
from infra.cli.smoketest.persistence import persistent
from infra.cli.sse import Event, Parser

_SILENCE = 40.0
"""Seconds, above two heartbeats."""
_PAUSE = (0.1, 1.0, 5.0)
"""Seconds before it comes back: the shortest, where the server has said nothing of it, and the longest."""

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

    def is_over(self) -> bool:
        """As a server ends it, so that nobody need come back at once."""
        if self.status != HTTPStatus.OK:
            return True
        last = self.events[-1] if self.events else None
        return last is not None and (
            last.name in {"complete", "timeout"} or (last.name == "error" and not last.data["retryable"])
        )

    def cut(self) -> None:
        """The connection broke: what came behind the last id comes again."""
        while self.events and self.events[-1].id is None:
            self.events.pop()


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

    Raises Wrong after `seconds`, and httpx.HTTPError; with a Persistent client what breaks is taken up again instead.
    """
    given = {"Accept": "text/event-stream"} | dict(api.headers() if headers is None else headers)
    deadline = _Deadline(seconds, time.monotonic() + seconds)
    recording = Recording(0, {}, b"", [], ended=False)
    client = persistent(api)
    while True:
        parser = Parser()
        place = next(reversed(recording.ids()), last_id)
        resumed = given | ({"Last-Event-ID": place} if place else {})
        timeout = httpx.Timeout(30.0, read=min(_SILENCE, seconds))
        try:
            with api.client.stream("GET", path, headers=resumed, timeout=timeout) as response:
                _begin(recording, response)
                if _listen(recording, response, parser, until, deadline):
                    return recording
        except httpx.TransportError:
            if client is None:
                raise
        else:
            if client is None or recording.is_over():
                recording.ended = True
                return recording
        recording.cut()
        client.came_back += 1
        least, usual, most = _PAUSE
        time.sleep(usual if parser.retry is None else min(most, max(least, parser.retry / 1000)))
        deadline.check(recording)


class _Deadline(Struct):
    seconds: float
    at: float

    def check(self, recording: Recording) -> None:
        if time.monotonic() > self.at:
            raise Wrong(f"not over after {self.seconds:.0f} s; the last event was {_brief(recording.events)}")


def _begin(recording: Recording, response: httpx.Response) -> None:
    """Raises Wrong if it is refused to be taken up again."""
    if not recording.events:
        recording.status, recording.headers, recording.beginning = response.status_code, response.headers, b""
        return
    rests = response.status_code == HTTPStatus.NO_CONTENT and recording.is_over()
    if response.status_code != HTTPStatus.OK and not rests:
        raise Wrong(f"coming back with the last id was answered by {response.status_code}")


def _listen(recording: Recording, response: httpx.Response, parser: Parser, until: Until, deadline: _Deadline) -> bool:
    """Whether `until` has enough; if not, the connection ended."""
    for chunk in response.iter_raw():
        recording.beginning += chunk[: 64 - len(recording.beginning)]
        for event in parser.feed(chunk):
            recording.events.append(event)
            if until(event):
                return True
        deadline.check(recording)
    return False


def _brief(events: list[Event]) -> str:
    if not events:
        return "none"
    data: Any = events[-1].data
    return f"`{events[-1].name}` of a batch that is {data.get('status')}" if isinstance(data, dict) else events[-1].name


def _is_estimate(event: Event) -> bool:
    return event.name == "progress" and event.id is None and not event.data.get("jobs")
