"""From a commit to a hundred viewers, against a bare Redis PUBLISH to a hundred subscribers."""

import time
from statistics import median
from urllib.parse import urlsplit

from redis import Redis
from sqlalchemy import Engine, make_url

from shared.auth import issue_token
from shared.channels import Frame
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.bench.results import ROUNDS, Number, Result, Verdict, percentile
from tests.bench.servers import Servers, engine
from tests.bench.viewers import Arrivals, Order, arrivals, watching
from tests.support.batches import OWNER
from tests.support.streams import stream_process
from tests.support.writer import Writer

VIEWERS = 100
_PERIOD = 0.1
"""Seconds between two changes."""

_CHANGES = 100
_BARE_CHANGES = 20
_SETTLE = 0.5
"""Seconds for everybody's first snapshot to be read."""

JOBS = 100


class TimedWriter(Writer):
    """Knows when each of its commits was over."""

    def __init__(self, database: Engine, settings: Settings) -> None:
        super().__init__(database, settings, JOBS)
        self.commits: list[tuple[int, float]] = []

    def _tell(self, frame: Frame | None) -> int:
        if frame is not None:
            self.commits.append((frame.to, time.monotonic()))
        return super()._tell(frame)


def measure(servers: Servers) -> Result:
    settings = servers.settings()
    ours: list[list[float]] = []
    bare: list[list[float]] = []
    with (
        engine(settings) as database,
        stream_process(settings) as (address, _),
        make_redis(settings.redis_url) as client,
    ):
        for _ in range(ROUNDS):
            ours.append(_ours(settings, database, address))
            bare.append(_bare(settings, client))
    return Result(
        f"delivery: from the commit of a change to each of {VIEWERS} viewers, ten changes a second",
        [
            Number("bare Redis `PUBLISH` to as many subscribers, middle", "ms", [median(waits) for waits in bare]),
            Number("bare, 99th of a hundred", "ms", [percentile(waits, 99) for waits in bare]),
            Number("Headway, middle", "ms", [median(waits) for waits in ours]),
            Number("Headway, 99th of a hundred", "ms", [percentile(waits, 99) for waits in ours]),
        ],
        [
            Verdict("Headway, middle", "ms", [median(waits) for waits in ours], 5),
            Verdict("Headway, 99th of a hundred", "ms", [percentile(waits, 99) for waits in ours], 60),
        ],
    )


def stream_request(settings: Settings, writer: Writer) -> bytes:
    path = f"/api/batches/{writer.batch_id}/stream"
    token = issue_token(settings, OWNER)
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def change_regularly(writer: Writer, changes: int) -> None:
    """One job of a hundred after the other gets on, in percent by percent."""
    begin = time.monotonic()
    for number in range(changes):
        time.sleep(max(0.0, begin + number * _PERIOD - time.monotonic()))
        writer.progress(number % JOBS, 1 + number // JOBS)


def _ours(settings: Settings, database: Engine, address: str) -> list[float]:
    writer = TimedWriter(database, settings)
    writer.start(*range(JOBS))
    place = urlsplit(address)
    order = Order(str(place.hostname), int(place.port or 0), VIEWERS, stream_request(settings, writer))
    with watching(settings, order) as process:
        time.sleep(_SETTLE)
        writer.commits.clear()
        change_regularly(writer, _CHANGES)
        time.sleep(_SETTLE)
        seen = arrivals(process)
    writer.close()
    return waits_of(writer.commits, seen)


def _bare(settings: Settings, client: "Redis") -> list[float]:
    """The frames' size, nothing read from or written to PostgreSQL, and nobody between Redis and the viewers."""
    place = make_url(settings.redis_url)
    request = f"AUTH {place.password}\r\nSUBSCRIBE bench:bare\r\n".encode()
    order = Order(str(place.host), int(place.port or 0), VIEWERS, request)
    sent: list[tuple[int, float]] = []
    with watching(settings, order) as process:
        time.sleep(_SETTLE)
        begin = time.monotonic()
        for number in range(_BARE_CHANGES):
            time.sleep(max(0.0, begin + number * _PERIOD - time.monotonic()))
            sent.append((number, time.monotonic()))
            client.publish("bench:bare", b'{"version":%d,"filler":"%b"}\n\n' % (number, b"x" * 1000))
        time.sleep(_SETTLE)
        return waits_of(sent, arrivals(process))


def waits_of(sent: list[tuple[int, float]], seen: Arrivals) -> list[float]:
    """Milliseconds from each commit until each viewer had its version or a later one. Raises if one never had."""
    waits = []
    for arrived in seen:
        coming = iter(arrived)
        version, moment = next(coming)
        for wanted, committed in sent:
            while version < wanted:
                version, moment = next(coming)
            waits.append((moment - committed) * 1000)
    assert len(waits) == len(sent) * len(seen)
    return waits
