"""PostgreSQL encodes jobs and lines for viewers: to the byte what our own structs would be, whatever is in them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from msgspec import to_builtins

from shared import models, queries
from shared.events import Artifact, encode
from shared.jobs import JobStatus
from shared.rows import job_of, line_of
from tests.support.odd import ODD_TEXTS
from tests.support.writer import Writer

TEXTS = [None, *ODD_TEXTS, "".join(map(chr, range(1, 0x180))), "x" * 8192]
TIMES = [
    None,
    datetime(2026, 11, 1, 12, 0, 0, 0, UTC),
    datetime(2026, 11, 1, 12, 0, 0, 999, UTC),  # a microsecond short of a millisecond: cut, not rounded
    datetime(2026, 11, 1, 12, 0, 59, 999_999, UTC),
    datetime(2024, 2, 29, 23, 59, 59, 500_000, timezone(timedelta(hours=-9, minutes=-30))),
    datetime(1, 1, 2, tzinfo=UTC),
    datetime(9999, 12, 30, 1, 2, 3, 4_000, UTC),
]
LARGEST = 2**31 - 1


@pytest.fixture
def writer(make_writer: Callable[..., Writer]) -> Writer:
    return make_writer()


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_a_job(writer: Writer, zone: str) -> None:
    given = [
        job(writer, number, status=status, step=text, message=text, name=text or "", at=TIMES[number % len(TIMES)])
        for number, (status, text) in enumerate(product(JobStatus, TEXTS), start=1)
    ]
    given += [
        job(writer, 1000, items_done=0, items_failed=0, items_total=0),
        job(writer, 1001, items_done=1, items_failed=2, items_total=LARGEST, cancel_requested=True),
        job(writer, 1002, metadata={"a": [1, -2.5e-7, None, True, {}], "b: c, d": "".join(map(chr, range(1, 0x180)))}),
        job(writer, 1003, metadata={}),
        job(writer, 1004, artifacts=to_builtins([Artifact(str(uuid4()), text, 2**40, "a/b") for text in ODD_TEXTS])),
        job(writer, LARGEST, error_code="x", error_message=ODD_TEXTS[0], attempt=LARGEST, progress=100),
    ]
    with writer.engine.begin() as connection:
        connection.execute(sa.text(f"SET LOCAL TimeZone = '{zone}'"))
        connection.execute(sa.insert(models.jobs), given)
        table = models.jobs
        rows = connection.execute(sa.select(table).order_by(table.c.version, table.c.position)).all()
        found = connection.execute(queries.CHANGED_JOBS, {"batch_id": writer.batch_id, "since": 0}).all()

    assert len(found) == len(given) + 1
    for row, (version, position, json) in zip(rows, found, strict=True):
        assert (version, position) == (row.version, row.position)
        assert json.encode() == encode(job_of(row))


def test_a_line(writer: Writer) -> None:
    times = TIMES[1:]
    given = [
        {
            "job_id": writer.jobs[0],
            "n": number + 2**40,
            "batch_id": writer.batch_id,
            "attempt": number,
            "at": times[number % len(times)],
            "level": ("info", "warn", "error")[number % 3],
            "text": text or "",
            "version": 7,
        }
        for number, text in enumerate(TEXTS)
    ]
    with writer.engine.begin() as connection:
        connection.execute(sa.insert(models.log_lines), given)
        rows = {row.n: row for row in connection.execute(sa.select(models.log_lines))}
        asked = {"batch_id": writer.batch_id, "since": 0, "limit": 1000}
        found = connection.execute(queries.CHANGED_LINES, asked).all()

    assert len(found) == len(given)
    for version, n, json in found:
        assert version == 7
        assert json.encode() == encode(line_of(rows[n]))


def job(writer: Writer, position: int, *, at: datetime | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "batch_id": writer.batch_id,
        "position": position,
        "name": "",
        "params": {},
        "status": JobStatus.QUEUED,
        "progress": 7,
        "step": None,
        "message": None,
        "items_done": None,
        "items_failed": None,
        "items_total": None,
        "attempt": 3,
        "failures": 0,
        "cancel_requested": False,
        "run_after": at,
        "error_code": None,
        "error_message": None,
        "metadata": None,
        "artifacts": None,
        "last_line": 0,
        "started_at": at,
        "finished_at": at,
        "version": 2**40 + position,
        **fields,
    }
