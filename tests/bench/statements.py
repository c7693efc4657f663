"""What one viewer more costs PostgreSQL while it watches: the statements that the stream service sends, counted."""

import time
from urllib.parse import urlsplit

from msgspec.structs import replace

from tests.bench.delivery import JOBS, VIEWERS, change_regularly, stream_request
from tests.bench.results import Number, Result, Verdict
from tests.bench.servers import LoggingPostgres, Servers, engine, servers
from tests.bench.viewers import Order, arrivals, watching
from tests.support.streams import stream_process
from tests.support.writer import Writer

_APPLICATION = "headway-stream"
_CHANGES = 40
_SETTLE = 1.0
_NEVER = 3600.0


def measure(_servers: Servers) -> Result:
    """On a PostgreSQL of its own, which writes every statement down."""
    with servers(LoggingPostgres) as logging:
        few, few_joining = _count(logging, 1)
        many, many_joining = _count(logging, VIEWERS)
    return Result(
        f"statements: what the stream service asks PostgreSQL while {_CHANGES} changes are watched",
        [
            Number("by one viewer", "statements", [few]),
            Number(f"by {VIEWERS} viewers", "statements", [many]),
            Number("before, while one viewer connects", "statements", [few_joining]),
            Number(f"before, while {VIEWERS} viewers connect", "statements", [many_joining]),
        ],
        [Verdict("for each additional viewer, while watching", "statements", [(many - few) / (VIEWERS - 1)], 0)],
    )


def _count(logging: Servers, viewers: int) -> tuple[int, int]:
    """While watching, and before it. Each time with a stream service of its own."""
    postgres = logging.postgres
    assert isinstance(postgres, LoggingPostgres)
    # the check of versions that heals a lost message comes every ten seconds, whoever watches: it would blur this
    settings = replace(logging.settings(), version_check=_NEVER)
    with engine(settings) as database, stream_process(settings) as (address, _):
        writer = Writer(database, settings, JOBS)
        writer.start(*range(JOBS))
        place = urlsplit(address)
        request = stream_request(settings, writer)
        before = postgres.statements(_APPLICATION)
        with watching(settings, Order(str(place.hostname), int(place.port or 0), viewers, request)) as process:
            time.sleep(_SETTLE)
            joined = postgres.statements(_APPLICATION)
            change_regularly(writer, _CHANGES)
            time.sleep(_SETTLE)
            watched = postgres.statements(_APPLICATION)
            newest = {seen[-1][0] for seen in arrivals(process)}
        writer.close()
        assert newest == {writer.frames[-1].to}, "a viewer did not see the last change"
    return watched - joined, joined - before
