"""When what happens arrives: by a stream, and by questions that wait for it, which nothing on the way holds back."""

import time
from typing import Any

import httpx
from msgspec import Struct

from infra.cli.api import Api, Refused
from infra.cli.checkup import advice as remedies
from infra.cli.checkup.advice import Finding, advice
from infra.cli.checkup.clocks import seconds
from infra.cli.checkup.lateness import Piece, longest_wait, lumps
from infra.cli.smoketest.checks import Wrong
from infra.cli.sse import Event, Parser

_WAIT = 10
"""Seconds that one question waits for news."""


class Listened(Struct):
    """A stream, and when each of its events came, by our clock; `began`: its first byte, `asked`: our question."""

    status: int
    headers: httpx.Headers
    asked: float
    began: float
    heard: list[tuple[float, Event]]
    ended: str
    """How: empty if it ended as it should."""

    @property
    def pieces(self) -> list[Piece]:
        """Of log lines."""
        return [
            Piece(seconds(line["at"]), came)
            for came, event in self.heard
            if event.name == "log"
            for line in event.data["lines"]
        ]


def listen(api: Api, path: str, limit: float, until: str = "complete") -> Listened:
    """At most so many seconds. A browser's question: it would take what is compressed."""
    given = {"Accept": "text/event-stream", "Accept-Encoding": "gzip, deflate"} | api.headers()
    asked = time.time()
    deadline = time.monotonic() + limit
    parser = Parser()
    with api.client.stream("GET", path, headers=given, timeout=httpx.Timeout(10.0, read=limit)) as response:
        listened = Listened(response.status_code, response.headers, asked, time.time(), [], "")
        try:
            for chunk in response.iter_bytes():
                listened.heard += [(time.time(), event) for event in parser.feed(chunk)]
                if any(event.name == until for _, event in listened.heard):
                    break
                if time.monotonic() > deadline:
                    listened.ended = f"it was not over after {limit:.0f} s"
                    break
        except httpx.ReadTimeout:
            listened.ended = "nothing more came"
        except httpx.HTTPError:
            listened.ended = "the connection was cut"
    return listened


def follow(api: Api, batch_id: str, limit: float) -> list[Piece]:
    """The batch's log lines by `changes?wait=`: each answer ends, and so no proxy keeps it. At most so many seconds.

    Raises Refused, Wrong and httpx.HTTPError.
    """
    deadline = time.monotonic() + limit
    pieces: list[Piece] = []
    query = {"since": "0", "wait": str(_WAIT)}
    done = False
    while not done:
        answer = api.client.get(f"/api/batches/{batch_id}/changes", params=query, headers=api.headers())
        came = time.time()
        if answer.is_error:
            raise Refused(answer)
        said: dict[str, Any] = answer.json()
        pieces += [Piece(seconds(line["at"]), came) for line in said["lines"]]
        query["since"], done = said["id"], said["done"]
        if not done and time.monotonic() > deadline:
            raise Wrong(f"it was not over after {limit:.0f} s")
    return pieces


def hears_nothing(listened: Listened, asked: list[Piece]) -> Finding:
    """`asked`: what came by questions, gathered as well."""
    return Finding(
        "Redis is away, or stream does not hear it: what is new is only found by looking",
        seen=f"{_waits(listened)}; by `changes?wait=`, which nobody holds back, up to {longest_wait(asked):.1f} s "
        "as well",
        change="see that Redis runs, that REDIS_URL of api, workers and stream leads to the same one, that no firewall "
        "is between"
        "\n              `GET /health/ready` at the stream's own port names it; docs/runbook.md, HeadwayRedisAway",
    )


def held_back(listened: Listened, server: str) -> Finding:
    return Finding(
        "something on the way holds them back, and lets them go in lumps",
        seen=f"{_waits(listened)}; the stream began {listened.began - listened.asked:.1f} s after it was asked for",
        change=advice(remedies.BUFFERING, server),
    )


def _waits(listened: Listened) -> str:
    pieces = listened.pieces
    return f"events waited up to {longest_wait(pieces):.1f} s; {lumps(pieces)} pieces for {len(pieces)} lines"
