"""Creating a batch of 10,000 jobs, against a bare COPY of the same rows into the same tables."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from uuid import UUID

import httpx
import msgspec
import psycopg
import sqlalchemy as sa
from psycopg import sql
from uuid_utils.compat import uuid7

from shared.creation import NewJob, create_batch
from shared.kinds.rehearsal import REHEARSAL
from shared.settings import Settings
from tests.bench.results import ROUNDS, Number, Result, Verdict, ratios
from tests.bench.servers import Servers, engine
from tests.support.batches import OWNER, make_batch
from tests.support.streams import stream_process
from tests.support.web import client

_JOBS = 10_000
_PARAMS = b'{"steps":10,"stepMs":100,"logsPerStep":2}'
_WARM_UP = 2

_ADD_BATCH = """
    INSERT INTO batches (id, owner, kind, title, status, version, priority, metadata, queued, processing, completed,
        failed, cancelled, total, progress_sum, failed_items, line_count, delayed, paused, cancel_requested, created_at)
    VALUES (%s, 'anna', 'rehearsal', 'a bench', 'QUEUED', 1, 0, '{}', 10000, 0, 0, 0, 0, 10000, 0, 0, 0, 0, false,
        false, clock_timestamp())
"""

_COLUMNS = "position, name, params, status, progress, attempt, failures, cancel_requested, last_line, version"
_ROWS = f"""
    COPY (SELECT uuidv7(), CAST({{}} AS uuid), {_COLUMNS} FROM jobs WHERE batch_id = {{}} ORDER BY position)
    TO STDOUT (FORMAT binary)
"""  # noqa: S608  # the columns stand above
_COPY = f"COPY jobs (id, batch_id, {_COLUMNS}) FROM STDIN (FORMAT binary)"


def measure(servers: Servers) -> Result:
    settings = servers.settings()
    with engine(settings) as database, _api(settings) as api, psycopg.connect(settings.database_url) as bare:
        body = _body()
        like = make_batch(database, _JOBS, params=msgspec.Raw(_PARAMS))
        sides: dict[str, Callable[[], float]] = {
            "copy": lambda: _copy(bare, like),
            "create": lambda: _create(database),
            "post": lambda: _post(api, body),
        }
        for _ in range(_WARM_UP):
            for side in sides.values():
                side()
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(ROUNDS):
            for name, side in sides.items():
                times[name].append(side() * 1000)
    copy, create, post = times["copy"], times["create"], times["post"]
    return Result(
        "creation: a batch of 10,000 jobs",
        [
            Number("bare: the batch's row, binary `COPY` of 10,000 prepared rows, commit", "ms", copy),
            Number("`create_batch` of checked jobs, commit", "ms", create),
            Number("`POST /api/batches`, whole, as its client sees it", "ms", post),
        ],
        [
            Verdict("the whole `POST` against the bare `COPY`", "times", ratios(post, copy), 1.6),
            Verdict("`create_batch` against the bare `COPY`", "times", ratios(create, copy)),
        ],
    )


def _copy(connection: psycopg.Connection, like: UUID) -> float:
    """The rows are made beforehand, by PostgreSQL itself: those of the batch `like`, with new ids."""
    batch_id = uuid7()
    with connection.cursor() as cursor, cursor.copy(sql.SQL(_ROWS).format(str(batch_id), str(like))) as copy:
        rows = b"".join(bytes(data) for data in copy)
    connection.commit()
    begin = time.perf_counter()
    with connection.cursor() as cursor:
        cursor.execute(_ADD_BATCH, [batch_id])
        with cursor.copy(_COPY) as copy:
            copy.write(rows)
    connection.commit()
    return time.perf_counter() - begin


def _create(database: sa.Engine) -> float:
    jobs = [NewJob(f"job {number}", msgspec.Raw(_PARAMS)) for number in range(_JOBS)]
    begin = time.perf_counter()
    with database.begin() as connection:
        create_batch(connection, REHEARSAL, jobs, owner=OWNER, title="a bench")
    return time.perf_counter() - begin


def _post(api: httpx.Client, body: bytes) -> float:
    begin = time.perf_counter()
    reply = api.post("/api/batches", content=body, headers={"Content-Type": "application/json"})
    took = time.perf_counter() - begin
    assert reply.status_code == HTTPStatus.CREATED, reply.text
    return took


def _body() -> bytes:
    jobs = [{"name": f"job {number}", "params": msgspec.Raw(_PARAMS)} for number in range(_JOBS)]
    return msgspec.json.encode({"kind": REHEARSAL.name, "title": "a bench", "jobs": jobs})


@contextmanager
def _api(settings: Settings) -> Iterator[httpx.Client]:
    with stream_process(settings, "services.api") as (address, _), client(address, settings) as api:
        yield api
