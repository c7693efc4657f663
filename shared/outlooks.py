"""Finding out what is expected of batches: which questions to PostgreSQL, and what their answers come to.

Whoever asks, with a connection of either sort, is led through by `ask` or `ask_async`. What comes out is an estimate of
the moment, and costs as much as batches are asked for, however many jobs and other batches there are.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, TextClause
from sqlalchemy.ext.asyncio import AsyncConnection

from shared import queries
from shared.eta import estimate
from shared.events import Batch
from shared.outlook import Facts, Outlook, Premises, waiting
from shared.pace import Pace, load, load_history
from shared.rows import waiting_of
from shared.turns import Ahead, Place, Turns

BATCHES = 200
"""Asked about at once, at most."""

_LANES = 500
"""Looked at of each queue: batches that could be started before one that waits. Those further back are not counted."""


_AT_ONCE = 20
"""Outlooks made between two rounds of an event loop: a millisecond or two."""


class Found(NamedTuple):
    """What is expected of a batch, and the version at which it was then."""

    version: int
    outlook: Outlook

    def shown(self, batch: Batch) -> Batch:
        """The batch as somebody read it or heard of it, perhaps at another version, with this."""
        return self.outlook.of(batch) if batch.version == self.version else self.outlook.beside(batch)


_Rows = Sequence[Row[Any]]
_Questions = Generator[tuple[TextClause, dict[str, Any]], _Rows, Iterator[tuple[UUID, Found]]]


def ask(connection: Connection, premises: Premises, batch_ids: Collection[UUID]) -> dict[UUID, Found]:
    """Of those that are there and not finished. `batch_ids`: BATCHES at most."""
    questions = _questions(premises, batch_ids)
    try:
        statement, parameters = next(questions)
        while True:
            statement, parameters = questions.send(connection.execute(statement, parameters).all())
    except StopIteration as end:
        return dict(end.value)


async def ask_async(connection: AsyncConnection, premises: Premises, batch_ids: Collection[UUID]) -> dict[UUID, Found]:
    """As `ask`; nobody else in the event loop waits for long."""
    questions = _questions(premises, batch_ids)
    try:
        statement, parameters = next(questions)
        while True:
            statement, parameters = questions.send((await connection.execute(statement, parameters)).all())
    except StopIteration as end:
        found = {}
        for number, (batch_id, one) in enumerate(end.value, start=1):
            found[batch_id] = one
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return found


class _World:
    """What is not of one batch."""

    def __init__(self) -> None:
        self.served: _Rows = ()
        self.turns: dict[str, Turns] = {}
        self.by_owner: dict[str, int] = {}
        self.by_kind: dict[str, int] = {}


def _questions(premises: Premises, batch_ids: Collection[UUID]) -> _Questions:
    """Only what is needed for these."""
    rows = yield queries.OUTLOOK, {"ids": list(batch_ids)}
    world = _World()
    if queues := sorted({row.queue for row in rows if row.queue and row.queued}):
        world.served = yield queries.SERVED, {"queues": queues, "lease": premises.lease}
        if premises.limited:
            leased = yield queries.LEASED, {}
            world.by_owner, world.by_kind = _sums(leased, "owner"), _sums(leased, "kind")
    if queues := sorted({row.queue for row in rows if row.queue and row.stands}):
        places = yield queries.TURNS, {"queues": queues, "lanes": _LANES}
        world.turns = _turns(places)
    now = datetime.now(UTC)
    return ((row.id, Found(row.version, _outlook(row, world, premises, now))) for row in rows)


def _outlook(row: Row[Any], world: _World, premises: Premises, now: datetime) -> Outlook:
    told, pace = waiting_of(row, now), load(row.pace)
    if told is None and row.queue and row.queued and not row.cancel_requested:
        told = waiting(_facts(row, world, pace, now), premises, now)
    eta = estimate(row, now)
    if eta is None:
        return Outlook(told, queued=row.queued)
    return Outlook(told, eta.seconds, eta.low, eta.high, row.queued)


def _facts(row: Row[Any], world: _World, pace: Pace, now: datetime) -> Facts:
    served = [one for one in world.served if one.queue == row.queue and row.kind in one.kinds]
    turns = world.turns.get(row.queue)
    ahead = turns.ahead(row.id, row.priority, row.owner) if turns is not None and row.stands else Ahead(0, 0, 0)
    return Facts(
        kind=row.kind,
        processing=row.processing,
        concurrency=row.concurrency,
        idle=now.timestamp() - pace.at if pace.at and row.completed + row.failed else None,
        workers=sum(one.workers for one in served),
        threads=sum(one.threads for one in served),
        busy=sum(one.busy for one in served),
        of_owner=world.by_owner.get(row.owner, 0),
        of_kind=world.by_kind.get(row.kind, 0),
        due=row.due,
        ahead=sum(ahead),
        job_seconds=_job_seconds(pace, row.kind_pace),
    )


def _turns(rows: _Rows) -> dict[str, Turns]:
    places: dict[str, list[Place]] = defaultdict(list)
    for row in rows:
        places[row.queue].append(Place(row.batch_id, row.priority, row.owner, row.jobs, row.last_owner, row.last_batch))
    return {queue: Turns(some) for queue, some in places.items()}


def _sums(rows: _Rows, name: str) -> dict[str, int]:
    sums: dict[str, int] = defaultdict(int)
    for row in rows:
        sums[getattr(row, name)] += int(row.jobs)
    return sums


def _job_seconds(pace: Pace, of_kind: Any) -> float | None:
    """How long one takes: as the batch's have, or else as its kind's do, also of a batch that has not begun."""
    if pace.completed:
        return pace.mean
    history = pace.history or load_history(of_kind)
    return None if history is None else math.exp(history.level)
