"""What PostgreSQL knows of a batch: the one question, *what changed since version v?*, and two smaller ones."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.stream.advance import Advance, Part, job_part, line_part
from shared import queries
from shared.errors import Unavailable
from shared.event_ids import LOGS_MAX
from shared.rows import batch_of, job_of, line_of

_PATIENCE = 10.0
"""Seconds for one question: a server that stopped in the middle of an answer never says so."""

_ROWS = 500
"""Rows taken in at a time, a few milliseconds' work: others want to be served meanwhile."""


class Stand(Struct, frozen=True):
    """Where a batch is."""

    version: int
    epoch: str


class History:
    """Every question is one transaction, REPEATABLE READ and READ ONLY (the engine's default), that is, one snapshot.

    All raise Unavailable when PostgreSQL cannot answer.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def since(self, batch_id: UUID, version: int, epoch: str) -> Advance | None:
        """What changed after `version`; everything (`since` 0) in another epoch, or if PostgreSQL is behind `version`.

        None if there is no such batch.
        """
        async with self._snapshot() as connection:
            row = (await connection.execute(queries.WATCHED_BATCH, {"id": batch_id})).one_or_none()
            if row is None:
                return None
            if row.epoch != epoch or row.version < version:
                version = 0
            since = {"batch_id": batch_id, "since": version}
            if row.version == version:
                return Advance(row.epoch, version, batch_of(row), [], [], row.line_count)
            jobs: list[Part] = []
            async with connection.stream(queries.CHANGED_JOBS, since) as result:
                async for rows in result.partitions(_ROWS):
                    jobs += [job_part(job.version, job_of(job)) for job in rows]
            newest = await connection.execute(queries.CHANGED_LINES, since | {"limit": LOGS_MAX})
            lines = [line_part(line.version, line_of(line)) for line in newest]
            lines.reverse()
            return Advance(row.epoch, version, batch_of(row), jobs, lines, row.line_count)

    async def owned(self, batch_id: UUID, owner: str) -> bool:
        async with self._snapshot() as connection:
            found = await connection.execute(queries.BATCH, {"id": batch_id, "owner": owner})
            return found.one_or_none() is not None

    async def line_count(self, batch_id: UUID, version: int) -> int:
        """How many log lines the batch had at `version`."""
        async with self._snapshot() as connection:
            row: Row[Any] | None = (await connection.execute(queries.WATCHED_BATCH, {"id": batch_id})).one_or_none()
            newer = await connection.execute(queries.COUNT_LINES, {"batch_id": batch_id, "since": version})
            return 0 if row is None else int(row.line_count) - newer.scalar_one()

    async def stands(self, batch_ids: Collection[UUID]) -> dict[UUID, Stand]:
        """Where they are; those that are gone are left out."""
        async with self._snapshot() as connection:
            rows = await connection.execute(queries.VERSIONS, {"ids": list(batch_ids)})
            return {row.id: Stand(row.version, row.epoch) for row in rows}

    async def check(self) -> None:
        """Whether it answers at all."""
        async with self._snapshot() as connection:
            await connection.execute(queries.EPOCH)

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with asyncio.timeout(_PATIENCE), self._engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:  # a TimeoutError is an OSError
            raise Unavailable(f"PostgreSQL does not answer: {type(error).__name__}") from error
