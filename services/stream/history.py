"""What PostgreSQL knows of a batch: the one question, *what changed since version v?*, and two smaller ones."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Row, TextClause
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.stream.advance import Advance, Part
from services.stream.feed import ACTIVE, LATEST, Reading, Standing
from services.stream.metrics import UNCOUNTED, Metrics
from shared import queries
from shared.errors import Unavailable
from shared.event_ids import LOGS_MAX
from shared.events import encode
from shared.jobs import FINAL_BATCH
from shared.outage import Outage
from shared.outlook import Outlook, Premises
from shared.outlooks import Found, ask_async
from shared.rows import batch_of

_PATIENCE = 10.0
"""Seconds for one question: a server that stopped in the middle of an answer never says so."""

_ROWS = 250
"""Rows taken in at a time, a millisecond's work or two: others want to be served meanwhile."""

_BATCHES = 50
"""Of these, which are decoded here."""


class Stand(Struct, frozen=True):
    """Where a batch is."""

    version: int
    epoch: str


class History:
    """Every question is one transaction, REPEATABLE READ and READ ONLY (the engine's default), that is, one snapshot.

    All raise Unavailable when PostgreSQL cannot answer.
    """

    def __init__(self, engine: AsyncEngine, metrics: Metrics = UNCOUNTED, premises: Premises | None = None) -> None:
        self._engine = engine
        self._premises = premises or Premises()
        self._metrics = metrics
        self._postgresql = Outage("postgresql", "changes")

    @property
    def away(self) -> bool:
        """PostgreSQL did not answer when it was last asked."""
        return self._postgresql.away

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
            found = None if version else (await ask_async(connection, self._premises, [batch_id])).get(batch_id)
            if row.version == version:
                return Advance(row.epoch, version, batch_of(row), [], [], row.line_count)
            jobs = await _parts(connection, queries.CHANGED_JOBS, since)
            lines = await _parts(connection, queries.CHANGED_LINES, since | {"limit": LOGS_MAX})
            lines.reverse()
            return Advance(
                row.epoch, version, batch_of(row), jobs, lines, row.line_count, found.outlook if found else Outlook()
            )

    async def owner(self, batch_id: UUID) -> str | None:
        """None if there is no such batch."""
        async with self._snapshot() as connection:
            row = (await connection.execute(queries.WATCHED_BATCH, {"id": batch_id})).one_or_none()
            return None if row is None else str(row.owner)

    async def batch_of(self, job_id: UUID, owner: str) -> UUID | None:
        """None for a job that is not there, or not this owner's."""
        async with self._snapshot() as connection:
            found: UUID | None = (
                await connection.execute(queries.BATCH_OF_JOB, {"id": job_id, "owner": owner})
            ).scalar_one_or_none()
            return found

    async def line_counts(self, batch_id: UUID, versions: Collection[int]) -> dict[int, int]:
        """How many log lines the batch had at each of them; none of them if there is no such batch."""
        ordered = sorted(set(versions))
        async with self._snapshot() as connection:
            row: Row[Any] | None = (await connection.execute(queries.WATCHED_BATCH, {"id": batch_id})).one_or_none()
            if row is None:
                return {}
            given = {"batch_id": batch_id, "since": ordered[0], "versions": ordered}
            found = await connection.execute(queries.COUNT_LINES, given)
            between: dict[int, int] = {row.number: row.lines for row in found}
        counts, count = {}, row.line_count
        for number in range(len(ordered), 0, -1):
            count -= between.get(number, 0)
            counts[ordered[number - 1]] = count
        return counts

    async def stands(self, batch_ids: Collection[UUID]) -> dict[UUID, Stand]:
        """Where they are; those that are gone are left out."""
        async with self._snapshot() as connection:
            rows = await connection.execute(queries.VERSIONS, {"ids": list(batch_ids)})
            return {row.id: Stand(row.version, row.epoch) for row in rows}

    async def outlooks(self, batch_ids: Collection[UUID]) -> dict[UUID, Found]:
        """What is expected of them, of outlooks.BATCHES at most; finished ones are left out."""
        async with self._snapshot() as connection:
            return await ask_async(connection, self._premises, batch_ids)

    async def feed(self, owner: str, known: Collection[UUID]) -> Reading:
        """What the feed of an owner begins with, and those that it knows."""
        async with self._snapshot() as connection:
            epoch: str = (await connection.execute(queries.EPOCH)).scalar_one()
            batches: dict[UUID, Standing] = {}
            given = {"owner": owner, "known": list(known), "latest": LATEST, "active": ACTIVE}
            async with connection.stream(queries.FEED, given) as result:
                async for rows in result.partitions(_BATCHES):
                    batches |= {row.id: _standing(row) for row in rows}
                    await asyncio.sleep(0)
            return Reading(epoch, batches)

    async def feed_versions(
        self, owners: Collection[str], known: Collection[UUID]
    ) -> tuple[str, dict[str, dict[UUID, int]]]:
        """The epoch; and for each owner where the batches are that its feed would begin with, and those known."""
        versions: dict[str, dict[UUID, int]] = {owner: {} for owner in owners}
        async with self._snapshot() as connection:
            epoch: str = (await connection.execute(queries.EPOCH)).scalar_one()
            given = {"owners": list(owners), "known": list(known), "latest": LATEST, "active": ACTIVE}
            async with connection.stream(queries.FEED_VERSIONS, given) as result:
                async for rows in result.partitions(_ROWS):
                    for owner, batch_id, version in rows:
                        versions[owner][batch_id] = version
                    await asyncio.sleep(0)
        return epoch, versions

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
            self._metrics.readings["failed"] += 1
            self._postgresql.begin(error)
            raise Unavailable(f"PostgreSQL does not answer: {type(error).__name__}") from error
        self._metrics.readings["answered"] += 1
        self._postgresql.end()


async def _parts(connection: AsyncConnection, statement: TextClause, given: dict[str, Any]) -> list[Part]:
    """By a cursor: what is asked for in one piece is also taken in in one, however long that takes."""
    parts: list[Part] = []
    async with connection.stream(statement, given) as result:
        async for rows in result.partitions(_ROWS):
            parts += [Part(version, number, json.encode()) for version, number, json in rows]
            await asyncio.sleep(0)  # what has come already is taken without any wait
    return parts


def _standing(row: Row[Any]) -> Standing:
    return Standing(row.version, row.status in FINAL_BATCH, encode(batch_of(row)))
