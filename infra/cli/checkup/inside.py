"""What can be seen with a token: one rehearsal, and when each event of its stream comes."""

import base64
import os
import time
import urllib.parse
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from infra.cli.api import Api, Refused
from infra.cli.checkup import advice as remedies
from infra.cli.checkup.advice import Finding, advice
from infra.cli.checkup.lateness import LUMP, Piece, longest_wait, skew
from infra.cli.checkup.outside import tell_clock
from infra.cli.errors import CliError
from infra.cli.smoketest.checks import Checks
from infra.cli.sse import Event, Parser

_STEPS, _STEP_MS = 20, 150
_TICKET = 86400.0
"""Seconds that a ticket is good for, if the token is as well."""
_GRACE = 5.0
"""Seconds that something may come later than it should."""

_TOGETHER = 0.01
"""Seconds between two pieces that came as one."""

Json = dict[str, Any]


class Listened(Struct):
    """A stream, and when each of its events came, by our clock; `began`: its first byte, `asked`: our question."""

    status: int
    headers: httpx.Headers
    asked: float
    began: float
    heard: list[tuple[float, Event]]
    ended: str
    """How: empty if it ended as it should."""


class Inside:
    def __init__(self, checks: Checks, api: Api, server: str) -> None:
        self._checks = checks
        self._api = api
        self._server = server

    def look(self, patience: float) -> bool:
        """Whether batches are accepted at all. `patience`: seconds until a job is taken."""
        batch: Json = {}
        with self._checks.check("a rehearsal is accepted"):
            job = {"name": "doctor", "params": {"steps": _STEPS, "stepMs": _STEP_MS, "logsPerStep": 1}}
            before = time.time()
            try:
                batch = self._api.create_batch({"kind": "rehearsal", "title": "headway doctor", "jobs": [job]})
            except Refused as error:
                raise _not_accepted(error) from None
            after = time.time()
        if not batch:
            return False
        self._check_address(batch)
        self._check_clocks(batch, before, after)
        path = f"/api/batches/{batch['batchId']}/stream"
        listened: Listened | None = None
        with self._checks.check("its stream can be opened"):
            listened = self._listen(path, patience + _STEPS * _STEP_MS / 1000 + _GRACE)
            self._expect_stream(listened)
        if listened is not None:
            self._check_stream(listened, batch, patience)
        self._end(batch)
        return True

    def wait(self, heartbeat: float) -> None:
        """For a ping: is a connection cut that is silent for so many seconds?"""
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="milliseconds")
        # while something runs, there are estimates to be told anew
        jobs = [{"name": "doctor", "params": {}}]
        batch = self._api.create_batch(
            {"kind": "rehearsal", "title": "headway doctor, silent", "runAfter": later, "jobs": jobs}
        )
        with self._checks.check(f"a stream that is silent is not cut off, and a ping comes after {heartbeat:g} s"):
            limit = heartbeat * 2 + 2 * _GRACE
            listened = self._listen(f"/api/batches/{batch['batchId']}/stream", limit, until="ping")
            if not listened.heard or listened.heard[-1][1].name != "ping":
                silent = time.time() - (listened.heard[-1][0] if listened.heard else listened.asked)
                raise Finding(
                    "none came",
                    seen=f"{listened.ended or 'the stream ended'}, after {silent:.0f} s of silence",
                    change=advice(remedies.PATIENCE, self._server),
                )
            came, ping = listened.heard[-1]
            said = ping.data["timestamp"]
            tell_clock(said / 1000 - came, "the stream service", f"a ping of {said}")
        self._end(batch)

    def _check_address(self, batch: Json) -> None:
        with self._checks.check("the addresses that it gives out are this one's"):
            given = _origin(self._api.absolute(batch["streamUrl"]))
            # who asks beside the services, in a container of theirs, is told in the environment how people come in
            ours = {_origin(self._api.address), _origin(os.environ.get("HEADWAY_PUBLIC_URL", ""))}
            if given not in ours:
                raise Finding(
                    "they are not",
                    seen=f"streamUrl begins with {given}, and you asked {self._api.address}",
                    change="HEADWAY_PUBLIC_URL is the address that people use, with https and without a path",
                )

    def _check_clocks(self, batch: Json, before: float, after: float) -> None:
        with self._checks.check("the database's clock and ours agree"):
            made = _seconds(batch["createdAt"])
            tell_clock(
                max(0.0, made - after) + min(0.0, made - before), "the database", f"createdAt {batch['createdAt']}"
            )
        with self._checks.check("api's clock and ours agree"):
            now = time.time()
            ticket = self._api.client.post(
                f"/api/batches/{batch['batchId']}/tickets", headers=self._api.headers()
            ).json()
            left = _seconds(ticket["expiresAt"]) - now
            # a token that ends within a day ends the ticket as well, and then says nothing of the clock
            if left > _TICKET or self._expiry() > now + _TICKET + _GRACE:
                tell_clock(left - _TICKET, "api", f"a ticket until {ticket['expiresAt']}")

    def _expiry(self) -> float:
        """Of our token, which is not for us to check; 0 if it does not say."""
        payload = self._api.headers()["Authorization"].split(".")[1:2]
        try:
            said = msgspec.json.decode(base64.urlsafe_b64decode("".join(payload) + "=="))
            return float(said["exp"])
        except (ValueError, TypeError, KeyError):  # of which msgspec's own is one
            return 0.0

    def _expect_stream(self, listened: Listened) -> None:
        if listened.status != httpx.codes.OK:
            raise Finding(
                "it cannot", seen=f"it is answered {listened.status}", change=advice(remedies.PATHS, self._server)
            )

    def _check_stream(self, listened: Listened, batch: Json, patience: float) -> None:
        with self._checks.check("nothing on the way compresses it"):
            if coding := listened.headers.get("content-encoding"):
                raise Finding(
                    "something does: a compressor collects what it compresses, and events come in lumps",
                    seen=f"Content-Encoding: {coding}",
                    change=advice(remedies.COMPRESSION, self._server),
                )
        with self._checks.check("it has the headers that a stream must have"):
            self._check_headers(listened.headers)
        taken = any(event.data.get("counts", {}).get("queued") == 0 for _, event in listened.heard)
        with self._checks.check(f"a worker takes the job within {patience:g} s"):
            if not taken:
                self._miss_worker(batch)
        with self._checks.check("its events come when they are made, each for itself"):
            self._check_arrival(listened)

    def _check_headers(self, headers: httpx.Headers) -> None:
        wrong = []
        if headers.get("content-type", "").partition(";")[0] != "text/event-stream":
            wrong.append(f"Content-Type {headers.get('content-type')} instead of text/event-stream")
        control = headers.get("cache-control", "")
        wrong += [f"no {word} in Cache-Control" for word in ("no-cache", "no-transform") if word not in control]
        # nginx does what this one says and takes it out; others pass it on to those before them
        if headers.get("x-accel-buffering") != "no" and "nginx" not in self._server.lower():
            wrong.append("no X-Accel-Buffering: no")
        if wrong:
            raise Finding(
                "some are missing: whatever is between may hold back, change or keep what passes",
                seen="; ".join(wrong),
                change=advice(remedies.HEADERS, self._server),
            )

    def _miss_worker(self, batch: Json) -> None:
        now = self._api.batch(batch["batchId"])
        if now["counts"]["queued"] == 0:
            return  # it was the stream that did not say so
        waiting = (now.get("waiting") or {}).get("reason", "nothing in particular")
        change = {
            "no_worker": "start workers for the queue `default`, and see that they reach PostgreSQL",
            "behind": "more workers: those that there are have other work",
            "limited": "raise HEADWAY_OWNER_CONCURRENCY or HEADWAY_LIMITS, or wait for what runs",
        }.get(waiting, "look at the workers' logs, and at `headway workers`")
        raise Finding("none does", seen=f"the batch waits, because of {waiting}", change=change)

    def _check_arrival(self, listened: Listened) -> None:
        pieces = [
            Piece(_seconds(line["at"]), came)
            for came, event in listened.heard
            if event.name == "log"
            for line in event.data["lines"]
        ]
        if len(pieces) < _STEPS // 2:
            raise Finding(
                "too few of them came to say so",
                seen=f"{len(pieces)} log lines of {_STEPS}; {listened.ended or 'the stream ended'}",
                change=advice(remedies.PATIENCE, self._server),
            )
        waited = longest_wait(pieces)
        if waited > LUMP:
            raise Finding(
                "something on the way holds them back, and lets them go in lumps",
                seen=f"events waited up to {waited:.1f} s; {_lumps(pieces)} pieces for {len(pieces)} lines; "
                f"the stream began {listened.began - listened.asked:.1f} s after it was asked for",
                change=advice(remedies.BUFFERING, self._server)
                + "\n              if it was up to 2 s and no more: Redis may be away; `GET /health/ready` of the "
                "stream service tells",
            )
        tell_clock(-skew(pieces), "the worker or its database", "the times of log lines")

    def _listen(self, path: str, seconds: float, until: str = "complete") -> Listened:
        """At most so long. A browser's question: it would take what is compressed."""
        given = {"Accept": "text/event-stream", "Accept-Encoding": "gzip, deflate"} | self._api.headers()
        asked = time.time()
        deadline = time.monotonic() + seconds
        parser = Parser()
        with self._api.client.stream("GET", path, headers=given, timeout=httpx.Timeout(10.0, read=seconds)) as response:
            listened = Listened(response.status_code, response.headers, asked, time.time(), [], "")
            try:
                for chunk in response.iter_bytes():
                    listened.heard += [(time.time(), event) for event in parser.feed(chunk)]
                    if any(event.name == until for _, event in listened.heard):
                        break
                    if time.monotonic() > deadline:
                        listened.ended = f"it was not over after {seconds:.0f} s"
                        break
            except httpx.ReadTimeout:
                listened.ended = "nothing more came"
            except httpx.HTTPError:
                listened.ended = "the connection was cut"
        return listened

    def _end(self, batch: Json) -> None:
        """Of what was only made to be looked at; what is over cannot be cancelled, nor what is not deleted."""
        with suppress(CliError):
            self._api.control(batch["batchId"], "cancel")
        with suppress(CliError):
            self._api.delete(batch["batchId"])


def _not_accepted(error: Refused) -> Finding:
    change = "see what it says; api's log has more, and docs/runbook.md, HeadwayApiErrors"
    if error.status == httpx.codes.UNAUTHORIZED:
        change = "a token made with the HEADWAY_SECRET that api has, and not yet expired (`headway token`)"
    elif error.status == httpx.codes.SERVICE_UNAVAILABLE:
        change = (
            "`GET /health/ready` at api's own port names the part that is away; for PostgreSQL docs/runbook.md, "
            "HeadwayPostgresqlAway"
        )
    return Finding("it is not", seen=f"POST /api/batches is answered {error.status}: {error}", change=change)


def _lumps(pieces: list[Piece]) -> int:
    """How many times something came: what came together counts once."""
    times = sorted(piece.came for piece in pieces)
    return 1 + sum(later - earlier > _TOGETHER for earlier, later in pairwise(times))


def _seconds(stamp: str) -> float:
    """Of an RFC 3339 time, since the Unix epoch."""
    return datetime.fromisoformat(stamp).astimezone(UTC).timestamp()


def _origin(address: str) -> str:
    parts = urllib.parse.urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"
