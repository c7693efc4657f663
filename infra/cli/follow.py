"""Follows a batch to its end, through lost connections: resumes at the last id, waits longer each time it fails."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import httpx

from infra.cli.api import Api, complaint
from infra.cli.errors import CliError
from infra.cli.reading import Change, Reading
from infra.cli.sse import Event, Parser, SseError

HEARTBEAT = 15.0
"""Seconds of silence after which the server pings."""
SILENCE = 2.5
"""Heartbeats without a sound after which a connection is dead."""

_BACKOFF = (1.0, 15.0)
"""Seconds: the first wait, which doubles each time, and the longest."""


class Lost(CliError):
    """The batch cannot be followed any more."""


class Stream:
    """One connection, open: its answer's head, and its events."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.parser = Parser()

    def events(self) -> Iterator[Event]:
        """Until the server ends it. Raises SseError, and httpx.HTTPError when it breaks or is silent for too long."""
        for chunk in self.response.iter_raw():
            yield from self.parser.feed(chunk)


@contextmanager
def connect(
    api: Api, batch_id: str, *, last_id: str | None = None, silence: float = HEARTBEAT * SILENCE
) -> Iterator[Stream]:
    """Raises httpx.HTTPError when there is no answer; any status is one."""
    headers = api.headers() | {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
    timeout = httpx.Timeout(30.0, read=silence)
    with api.client.stream("GET", f"/api/batches/{batch_id}/stream", headers=headers, timeout=timeout) as response:
        yield Stream(response)


class Follower:
    """`changes()` ends when the batch is final; `state` is then what it came to."""

    def __init__(self, api: Api, batch_id: str, *, patience: float) -> None:
        """`patience`: seconds without any connection after which the batch counts as lost."""
        self.state = Reading()
        self._api = api
        self._batch_id = batch_id
        self._patience = patience
        self._failures = 0
        self._heard = time.monotonic()

    def changes(self) -> Iterator[Change | str]:
        """What changed; and sentences about the connection. Raises Lost."""
        while not self.state.complete:
            self.state.restart()
            trouble = "the connection ended"
            try:
                with connect(self._api, self._batch_id, last_id=self.state.id) as stream:
                    self._check(stream.response)
                    for event in stream.events():
                        if event.name == "error":
                            trouble = self._refused(event)
                            continue
                        if event.name == "timeout":
                            trouble = ""  # it is asked for: at once
                            break
                        self._failures, self._heard = 0, time.monotonic()
                        change = self.state.take(event)
                        if change is not None:
                            yield change
            except (httpx.HTTPError, SseError) as error:
                trouble = str(error) or type(error).__name__
            if trouble and not self.state.complete:
                yield self._wait(trouble)

    def _check(self, response: httpx.Response) -> None:
        if response.status_code == HTTPStatus.OK:
            return
        response.read()
        if response.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}:
            raise Lost(complaint(response))
        raise httpx.HTTPStatusError(complaint(response), request=response.request, response=response)

    def _refused(self, event: Event) -> str:
        message = str(event.data["message"])
        if not event.data["retryable"]:
            raise Lost(message)
        return message

    def _wait(self, trouble: str) -> str:
        first, longest = _BACKOFF
        seconds = min(longest, first * 2**self._failures) * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret
        self._failures += 1
        if time.monotonic() + seconds - self._heard > self._patience:
            raise Lost(f"no connection for {self._patience:.0f} s: {trouble}")
        time.sleep(seconds)
        return f"{trouble}; connecting again"
