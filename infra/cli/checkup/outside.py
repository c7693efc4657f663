"""What can be seen without a token."""

import base64
import os
import ssl
import time
import urllib.parse
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import MappingProxyType

import msgspec
from msgspec import Struct

from infra.cli.checkup import advice as remedies
from infra.cli.checkup.advice import Finding, advice
from infra.cli.checkup.clocks import apart, tell_clock
from infra.cli.checkup.wire import PATIENCE, Answer, Place, ask
from infra.cli.smoketest.checks import Checks, Wrong

_NOBODYS = "/api/batches/00000000-0000-7000-8000-000000000000"
_EVENTS = {"Accept": "text/event-stream"}
_ASKED = 2.0
"""Seconds for a refusal that needs no body; nobody who waits for the body answers at all."""
_FRAME = 64 * 1024
_ANY = "/api/batches/{id}"
_NO_LIFE = f"/health/live is not answered within {PATIENCE:.0f} s"
_NO_STREAMS = "the stream service does not answer"
_START = "start {}, or look why it does not start or stands still (its log; `GET /health/ready` at its own port)"
_AWAY = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
_MOVED = {
    *(HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.FOUND),
    *(HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT),
}
_KILLING = _AWAY | {HTTPStatus.TOO_MANY_REQUESTS}
_HANDSHAKE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}


class Sizes(Struct):
    """Bytes: the server's HEADWAY_MAX_REQUEST and HEADWAY_MAX_UPLOAD."""

    request: int
    upload: int


class Outside:
    """`server`, once asked: what it calls itself; `moved`: where it sends those who come without TLS, if it does.

    Once looked at: whether `api` and `streams` answer at all, and whether what stands behind them is `published`.
    """

    def __init__(self, checks: Checks, place: Place, trust: ssl.SSLContext) -> None:
        self._checks = checks
        self._place = place
        self._trust = trust
        self.server = ""
        self.moved = ""
        self.api = self.streams = True
        self._alive = True
        self._silent = False  # each more question would take as long as the first
        self.published = False

    def look(self, sizes: Sizes, *, behind_gateway: bool) -> bool:
        """Whether it is Headway: of something else nothing more is asked.

        `behind_gateway`: and not what `headway run` serves by itself, at one address.
        """
        if not self._check_api():
            return False
        self._check_clock()
        self._check_streams()
        self._check_health()
        if behind_gateway:
            self._check_metrics()
        else:
            self._checks.leave_out("/metrics is not published", "this is what runs here, without a gateway")
        if self.streams:
            self._check_sockets()
        else:
            self._checks.leave_out("WebSockets", _NO_STREAMS)
        if self.api:
            self._check_sizes(sizes)
        else:
            self._checks.leave_out("what is large may pass", "api does not answer")
        return True

    def recognise(self) -> None:
        """Raises OSError if nobody answers."""
        answer = ask(self._place, self._trust, "GET", "/health/live")
        self._alive = answer is not None
        if answer is not None:
            self.server = " ".join(answer.headers.get(name, "") for name in ("server", "via")).strip()
            self.moved = _secure_origin(answer)

    def check_strict(self) -> None:
        what = "browsers are told to come by HTTPS only"
        if not self._alive:
            self._checks.leave_out(what, _NO_LIFE)
            return
        with self._checks.check(what):
            if self._place.host == "localhost":
                return  # it would hold for every other program of this machine
            if "strict-transport-security" not in self._get("/health/live").headers:
                raise Finding(
                    "they are not: whoever types the name comes without TLS first",
                    seen="no Strict-Transport-Security in the answer of /health/live",
                    change=advice(remedies.STRICT, self.server),
                )

    def _check_clock(self) -> None:
        what = "the gateway's clock and ours agree"
        if not self._alive:
            self._checks.leave_out(what, _NO_LIFE)
            return
        with self._checks.check(what):
            before = time.time()
            answer = self._get("/health/live")
            after = time.time()
            if "date" not in answer.headers:
                raise Wrong("its answers have no Date")
            said = parsedate_to_datetime(answer.headers["date"]).timestamp()
            # it says whole seconds, cut off
            tell_clock(apart(said, said + 1, before, after), "the gateway", f"Date: {answer.headers['date']}")

    def _check_api(self) -> bool:
        """Whether it is ours; one that is away may be."""
        with self._checks.check("api answers"):
            answer = ask(self._place, self._trust, "GET", "/api/kinds")
            self.api = answer is not None and answer.status not in _AWAY
            if answer is None or not self.api:
                raise Finding("it does not", seen=f"/api/kinds is {_answered(answer)}", change=_START.format("api"))
            self._expect_stranger(answer, "/api/kinds")
            return True
        return not self.api

    def _check_streams(self) -> None:
        for path in (f"{_NOBODYS}/stream", "/api/stream"):
            what = f"the stream service answers at {path.replace(_NOBODYS, _ANY)}"
            if self._silent:
                self._checks.leave_out(what, _NO_STREAMS)
                continue
            with self._checks.check(what):
                self._check_stream(path)
        what = f"it answers at {_ANY}/changes as well"
        if not self.streams:
            self._checks.leave_out(what, _NO_STREAMS)
            return
        with self._checks.check(what):
            self._expect_stranger(self._get(f"{_NOBODYS}/changes"), "changes")

    def _check_stream(self, path: str) -> None:
        answer = ask(self._place, self._trust, "GET", path, _EVENTS)
        if answer is None:
            self.streams, self._silent = False, True
            raise Finding("it does not", seen=f"it is {_answered(answer)}", change=_START.format("the stream service"))
        seen = f"it is answered {answer.status}, {answer.headers.get('content-type', 'without a type')}"
        if answer.status in _KILLING:
            self.streams = answer.status not in _AWAY
            raise Finding(
                "it does not, and the answer ends an EventSource for good: any status but 200 does",
                seen=seen,
                change=advice(remedies.STATUS, self.server)
                + f"\n              and {_START.format('the stream service')}",
            )
        if answer.status == HTTPStatus.OK and b"event: error" in answer.body:
            self.streams = False
            raise Finding(
                "it does not; the gateway bids people come back", seen=seen, change=_START.format("the stream service")
            )
        self._expect_stranger(answer, path)

    def _check_health(self) -> None:
        what = "PostgreSQL and Redis are there"
        answer = ask(self._place, self._trust, "GET", "/health/ready")
        if answer is None:
            self._checks.leave_out(what, f"/health/ready is not answered within {PATIENCE:.0f} s")
            return
        parts = _json(answer)
        self.published = "postgresql" in parts
        if not self.published:
            self._checks.leave_out(what, "the gateway does not publish /health/ready, and it need not")
            return
        with self._checks.check(what):
            away = [name for name in ("postgresql", "redis") if parts.get(name) != "ok"]
            if away:
                raise Finding(
                    f"{' and '.join(away)}: away",
                    seen=f"/health/ready says {msgspec.json.encode(parts).decode()}",
                    change="see that it runs, that DATABASE_URL and REDIS_URL lead there, that no firewall is between; "
                    "without Redis changes come up to 2 s late",
                )

    def _check_metrics(self) -> None:
        with self._checks.check("/metrics is not published"):
            answer = self._get("/metrics")
            if answer.status == HTTPStatus.OK and (b"# HELP" in answer.body or b"# TYPE" in answer.body):
                raise Finding(
                    "it is: everybody can read how much is done here",
                    seen="/metrics is answered 200, with metrics",
                    change=advice(remedies.PUBLISHED, self.server),
                )

    def _check_sockets(self) -> None:
        with self._checks.check("a WebSocket can be opened, by our own pages too"):
            key = {"Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode()}
            answer = self._get("/api/ws", _HANDSHAKE | key)
            if answer.status != HTTPStatus.SWITCHING_PROTOCOLS:
                raise Finding(
                    "it cannot: the wish to upgrade the connection does not arrive",
                    seen=f"the handshake at /api/ws is answered {answer.status} instead of 101",
                    change=advice(remedies.UPGRADE, self.server),
                )
            scheme = "https" if self._place.secure else "http"
            answer = self._get("/api/ws", _HANDSHAKE | key | {"Origin": f"{scheme}://{self._place.authority}"})
            if answer.status == HTTPStatus.FORBIDDEN:
                raise Finding(
                    "pages of this address are refused as those of another site",
                    seen=f"the handshake with Origin {scheme}://{self._place.authority} is answered 403",
                    change=advice(remedies.HOST, self.server),
                )

    def _check_sizes(self, sizes: Sizes) -> None:
        self._check_size("a file of the largest size", "/api/uploads", "multipart/form-data; boundary=x", sizes.upload)
        self._check_size("a request of the largest size", "/api/batches", "application/json", sizes.request - _FRAME)

    def _check_size(self, what: str, path: str, kind: str, size: int) -> None:
        """By announcing a body: whoever would not take so much says so at once, before a token is looked at."""
        with self._checks.check(f"{what}, {size / 2**20:.0f} MiB, may pass"):
            headers = {"Content-Length": str(size), "Content-Type": kind}
            answer = ask(self._place, self._trust, "POST", path, headers, seconds=_ASKED)
            if answer is not None and answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                raise Finding(
                    "it may not",
                    seen=f"POST {path} with Content-Length {size} is answered 413",
                    change=advice(remedies.SIZES, self.server),
                )

    def _get(self, path: str, headers: Mapping[str, str] = MappingProxyType({})) -> Answer:
        answer = ask(self._place, self._trust, "GET", path, headers)
        if answer is None:
            raise Wrong(f"{path.replace(_NOBODYS, _ANY)} is not answered within {PATIENCE:.0f} s")
        return answer

    def _expect_stranger(self, answer: Answer, path: str) -> None:
        if answer.status != HTTPStatus.UNAUTHORIZED or not answer.headers.get("content-type", "").startswith(
            "application/problem+json"
        ):
            raise Finding(
                "something else does",
                seen=f"{path} is answered {answer.status}, {answer.headers.get('content-type', 'without a type')}, "
                "instead of 401 and a problem, as a stranger is",
                change=advice(remedies.PATHS, self.server),
            )


def _answered(answer: Answer | None) -> str:
    return f"not answered within {PATIENCE:.0f} s" if answer is None else f"answered {answer.status}"


def _secure_origin(answer: Answer) -> str:
    """Where a redirect leads to; empty if it is none, or not to https."""
    if answer.status not in _MOVED:
        return ""
    try:
        parts = urllib.parse.urlsplit(answer.headers.get("location", ""))
    except ValueError:
        return ""
    return f"https://{parts.netloc}" if parts.scheme == "https" and parts.netloc.isprintable() else ""


def _json(answer: Answer) -> dict[str, object]:
    body = answer.body[
        answer.body.find(b"{") : answer.body.rfind(b"}") + 1
    ]  # it may come in chunks, of which it is one
    try:
        said = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return {}
    return said if isinstance(said, dict) else {}
