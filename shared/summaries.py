"""A batch's summary: what its kind adds up from the results of its jobs, once the batch has ended."""

import time
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from shared import queries
from shared.events import encode
from shared.kinds import KINDS
from shared.texts import holds_nul

LONGEST = 5
"""Seconds that adding up may take: meanwhile the batch's lock is held, and the ledger does nothing else."""

log = structlog.get_logger(__name__)


def summary_of(connection: Connection, batch_id: UUID, kind_name: str) -> str | None:
    """JSON. A kind that cannot add up leaves it null: a batch that could never end would be worse."""
    kind = KINDS.get(kind_name)
    if kind is None or kind.summarise is None:
        return None
    decode = msgspec.json.Decoder(kind.result or Any).decode
    until = time.monotonic() + LONGEST

    def results(rows: Iterable[Any]) -> Iterator[Any]:
        for row in rows:
            if time.monotonic() > until:
                raise TimeoutError(f"summarising took longer than {LONGEST} s")
            yield decode(row.result)

    connection.execute(queries.ALLOW_SUMMARY)
    options = {"yield_per": 1000}
    try:
        with connection.execute(queries.RESULTS, {"batch_id": batch_id}, execution_options=options) as rows:
            summary = encode(kind.summarise(results(rows)))
    except DBAPIError:
        raise
    except Exception:
        log.exception("the results cannot be summarised", batch=str(batch_id), kind=kind_name)
        return None
    if holds_nul(summary):
        log.error("the summary holds a NUL character", batch=str(batch_id), kind=kind_name)
        return None
    return summary.decode()
