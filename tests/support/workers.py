"""Rows of workers that are not there."""

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from uuid_utils.compat import uuid7

from shared import models


def add_worker(engine: sa.Engine, *, silent: float = 0, **fields: Any) -> UUID:
    """One that was heard of `silent` seconds ago; its id."""
    row = {
        "id": uuid7(),
        "queue": "default",
        "kinds": ["rehearsal"],
        "host": "a host",
        "pid": 1234,
        "version": "1.0",
        "threads": 8,
        "running": 0,
        "job_ids": [],
        "abandoned": 0,
        "memory": 100_000_000,
        "draining": False,
        "drain_requested": False,
        "started_at": sa.func.clock_timestamp() - sa.func.make_interval(1),
        "seen_at": sa.func.clock_timestamp() - sa.func.make_interval(0, 0, 0, 0, 0, 0, silent),
    }
    with engine.begin() as connection:
        connection.execute(sa.insert(models.workers).values(row | fields))
    return UUID(str(row["id"]))
