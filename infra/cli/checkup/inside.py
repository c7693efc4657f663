"""What can be seen with a token: one rehearsal, and when each event of its stream comes."""

import os
import time
import urllib.parse
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from infra.cli.api import Api, Refused
from infra.cli.checkup import advice as remedies
from infra.cli.checkup.advice import Finding, advice
from infra.cli.checkup.arrival import Listened, follow, hears_nothing, held_back, listen
from infra.cli.checkup.clocks import check_api, check_database, discard, tell_clock
from infra.cli.checkup.lateness import LUMP, gathered, longest_wait, skew
from infra.cli.errors import CliError
from infra.cli.smoketest.checks import Checks, Wrong

_STEPS, _STEP_MS = 20, 150
_LASTS = _STEPS * _STEP_MS / 1000
_GRACE = 5.0
"""Seconds that something may come later than it should."""
_AGAIN = 0.2
"""Seconds between two questions whether a worker has taken the job, where no stream tells."""

Json = dict[str, Any]


class Inside:
    """`streams`: whether the stream service answers at all."""

    def __init__(self, checks: Checks, api: Api, server: str, *, streams: bool) -> None:
        self._checks = checks
        self._api = api
        self._server = server
        self._streams = streams

    def look(self, patience: float) -> bool:
        """Whether batches are accepted at all. `patience`: seconds until a job is taken."""
        batch: Json = {}
        with self._checks.check("a rehearsal is accepted"):
            before = time.time()
            batch = self._rehearse()
            after = time.time()
        if not batch:
            return False
        self._check_address(batch)
        check_database(self._checks, batch, before, after)
        listened: Listened | None = None
        if self._streams:
            with self._checks.check("its stream can be opened"):
                path = f"/api/batches/{batch['batchId']}/stream"
                found = listen(self._api, path, patience + _LASTS + _GRACE)
                self._expect_stream(found)
                listened = found
        else:
            self._checks.leave_out("its stream", "the stream service does not answer")
        taken = self._check_worker(batch, listened, patience)
        if listened is not None:
            self._check_stream(listened, patience, taken=taken)
        check_api(self._checks, self._api)
        discard(self._api, batch)
        return True

    def wait(self, heartbeat: float) -> None:
        """For a ping: is a connection cut that is silent for so many seconds?"""
        later = (datetime.now(UTC) + timedelta(days=2)).isoformat(timespec="milliseconds")
        # while something runs, there are estimates to be told anew
        jobs = [{"name": "doctor", "params": {}}]
        batch = self._api.create_batch(
            {"kind": "rehearsal", "title": "headway doctor, silent", "runAfter": later, "jobs": jobs}
        )
        pinged: tuple[float, int] | None = None
        with self._checks.check(f"a stream that is silent is not cut off, and a ping comes after {heartbeat:g} s"):
            limit = heartbeat * 2 + 2 * _GRACE
            listened = listen(self._api, f"/api/batches/{batch['batchId']}/stream", limit, until="ping")
            if not listened.heard or listened.heard[-1][1].name != "ping":
                silent = time.time() - (listened.heard[-1][0] if listened.heard else listened.asked)
                raise Finding(
                    "none came",
                    seen=f"{listened.ended or 'the stream ended'}, after {silent:.0f} s of silence",
                    change=advice(remedies.PATIENCE, self._server),
                )
            came, ping = listened.heard[-1]
            pinged = came, ping.data["timestamp"]
        if pinged is not None:
            with self._checks.check("the stream service's clock and ours agree"):
                came, said = pinged
                tell_clock(said / 1000 - came, "the stream service", f"a ping of {said}")
        discard(self._api, batch)

    def _rehearse(self) -> Json:
        job = {"name": "doctor", "params": {"steps": _STEPS, "stepMs": _STEP_MS, "logsPerStep": 1}}
        try:
            return self._api.create_batch({"kind": "rehearsal", "title": "headway doctor", "jobs": [job]})
        except Refused as error:
            raise self._not_accepted(error) from None

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

    def _expect_stream(self, listened: Listened) -> None:
        if listened.status != httpx.codes.OK:
            raise Finding(
                "it cannot", seen=f"it is answered {listened.status}", change=advice(remedies.PATHS, self._server)
            )
        if listened.heard and listened.heard[0][1].name == "error":
            raise Finding(
                "it cannot: people are bidden to come back",
                seen=f"its first event is an error, {listened.heard[0][1].data}",
                change="see the stream service's log; docs/runbook.md, HeadwayStreamAway and HeadwayViewersRefused",
            )

    def _check_worker(self, batch: Json, listened: Listened | None, patience: float) -> bool:
        """Whether one took the job."""
        with self._checks.check(f"a worker takes the job within {patience:g} s"):
            heard = [] if listened is None else [event for _, event in listened.heard]
            if any(event.data.get("counts", {}).get("queued") == 0 for event in heard):
                return True
            self._await_worker(batch, patience if listened is None else 0)
            return True
        return False

    def _await_worker(self, batch: Json, patience: float) -> None:
        """Where it was the stream that did not say so. Raises Finding."""
        until = time.monotonic() + patience
        while (now := self._api.batch(batch["batchId"]))["counts"]["queued"]:
            if time.monotonic() > until:
                raise _no_worker(now)
            time.sleep(_AGAIN)

    def _check_stream(self, listened: Listened, patience: float, *, taken: bool) -> None:
        with self._checks.check("nothing on the way compresses it"):
            if coding := listened.headers.get("content-encoding"):
                raise Finding(
                    "something does: a compressor collects what it compresses, and events come in lumps",
                    seen=f"Content-Encoding: {coding}",
                    change=advice(remedies.COMPRESSION, self._server),
                )
        arrival, clock = "its events come when they are made, each for itself", "the worker's clock and ours agree"
        passes = False
        if taken:
            with self._checks.check(arrival):
                passes = self._check_arrival(listened, patience)
            if pieces := listened.pieces:
                with self._checks.check(clock):
                    tell_clock(-skew(pieces), "the worker", "the times of log lines")
        else:
            for what in (arrival, clock):
                self._checks.leave_out(what, "nothing was made")
        with self._checks.check("it has the headers that a stream must have"):
            self._check_headers(listened.headers, passes=passes)

    def _check_headers(self, headers: httpx.Headers, *, passes: bool) -> None:
        """`passes`: what is made comes as it is made, so that nobody needs to be told to let it pass."""
        wrong = []
        if headers.get("content-type", "").partition(";")[0] != "text/event-stream":
            wrong.append(f"Content-Type {headers.get('content-type')} instead of text/event-stream")
        control = headers.get("cache-control", "")
        wrong += [f"no {word} in Cache-Control" for word in ("no-cache", "no-transform") if word not in control]
        # nginx does what this one says and takes it out; others pass it on to those before them
        if headers.get("x-accel-buffering") != "no" and "nginx" not in self._server.lower():
            if passes and not wrong:
                self._checks.remark(
                    "the stream has no X-Accel-Buffering: no; nginx takes it out, and nothing was held back. It would "
                    "tell another proxy before that one to hold nothing back either"
                )
                return
            wrong.append("no X-Accel-Buffering: no")
        if wrong:
            raise Finding(
                "some are missing: whatever is between may hold back, change or keep what passes",
                seen="; ".join(wrong),
                change=advice(remedies.HEADERS, self._server),
            )

    def _check_arrival(self, listened: Listened, patience: float) -> bool:
        """Whether nothing on the way holds back. Raises Finding if anything does, or who should tell is deaf."""
        pieces = listened.pieces
        if len(pieces) < _STEPS // 2:
            raise Finding(
                "too few of them came to say so",
                seen=f"{len(pieces)} log lines of {_STEPS}; {listened.ended or 'the stream ended'}",
                change=advice(remedies.PATIENCE, self._server),
            )
        if longest_wait(pieces) > LUMP or gathered(pieces):
            raise self._why_late(listened, patience)
        return True

    def _why_late(self, listened: Listened, patience: float) -> Finding:
        """Another rehearsal, of which is asked in a way that nothing can hold back: does that come in lumps, too?"""
        batch = self._rehearse()
        try:
            pieces = follow(self._api, batch["batchId"], patience + _LASTS + _GRACE)
        except (CliError, Wrong, httpx.HTTPError, KeyError, TypeError, ValueError):
            return held_back(listened, self._server)
        finally:
            discard(self._api, batch)
        if pieces and gathered(pieces):
            return hears_nothing(listened, pieces)
        return held_back(listened, self._server)

    def _not_accepted(self, error: Refused) -> Finding:
        change = "see what it says; api's log has more, and docs/runbook.md, HeadwayApiErrors"
        wrong = "it is not"
        if error.status == httpx.codes.UNAUTHORIZED:
            change = (
                "a token made with the HEADWAY_SECRET that api has, and not yet expired (`headway token`)"
                "\n              if it is fresh, api's clock is ahead: `date -u`"
            )
        elif error.status == httpx.codes.SERVICE_UNAVAILABLE:
            if self._knows_us():
                wrong = "it is not: api answers, but PostgreSQL does not"
                change = (
                    "see that PostgreSQL runs, that DATABASE_URL leads there and that it has connections to spare; "
                    "`GET /health/ready` at api's own port names the part that is away; docs/runbook.md, "
                    "HeadwayPostgresqlAway"
                )
            else:
                change = (
                    "`GET /health/ready` at api's own port names the part that is away: PostgreSQL, or with "
                    "HEADWAY_JWKS_URL those who issue the tokens"
                )
        return Finding(wrong, seen=f"POST /api/batches is answered {error.status}: {error}", change=change)

    def _knows_us(self) -> bool:
        """Whether api takes our token, for which it asks no database."""
        try:
            return self._api.client.get("/api/kinds", headers=self._api.headers()).is_success
        except httpx.HTTPError:
            return False


def _no_worker(now: Json) -> Finding:
    waiting = (now.get("waiting") or {}).get("reason", "")
    change = {
        "no_worker": "start workers for the queue `default`, and see that they reach PostgreSQL",
        "behind": "more workers: those that there are have other work",
        "limited": "raise HEADWAY_OWNER_CONCURRENCY or HEADWAY_LIMITS, or wait for what runs",
    }.get(waiting, "see that workers run, and what they log (`headway workers`)")
    seen = f"the batch waits, because of {waiting}" if waiting else "the batch waits, and api does not know for what"
    return Finding("none does", seen=seen, change=change)


def _origin(address: str) -> str:
    parts = urllib.parse.urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"
