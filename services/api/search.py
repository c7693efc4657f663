"""Going through a batch's log lines in pages, each read in a short transaction of its own."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from msgspec import Meta, Struct
from sqlalchemy import Connection, Row

from shared import queries

WINDOW = 10_000
"""Lines that one transaction looks at, however few of them are wanted: some 50 ms of PostgreSQL's time."""

Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Place(Struct, frozen=True, array_like=True):
    """After which line to go on: its version, when it was written, its job and its number there."""

    version: Number = 0
    at: Annotated[datetime, Meta(tz=True)] = datetime.min.replace(tzinfo=UTC)
    job_id: UUID = UUID(int=0)
    n: Number = 0


class Search(Struct, frozen=True):
    """Which lines are wanted: of the batch or, if it is named, of one of its jobs; no newer than version `until`."""

    batch_id: UUID
    until: int
    job_id: UUID | None = None
    levels: list[str] | None = None
    text: str | None = None
    """Part of a line, in any case."""

    def page(self, connection: Connection, after: Place, limit: int) -> tuple[list[Row[Any]], Place | None]:
        """Up to `limit` lines, and where to go on, perhaps after fewer or none; None at the end.

        In the order in which they were stored, those of one version by time; those of one job by number.
        """
        connection.execute(queries.NO_SORT)
        parameters = {
            "until": self.until,
            "levels": self.levels,
            "q": self.text,
            "window": WINDOW,
            "limit": limit + 1,  # one more tells whether there is another page
            "n": after.n,
        }
        if self.job_id is None:
            more = {"batch_id": self.batch_id, "version": after.version, "at": after.at, "job_id": after.job_id}
            rows = connection.execute(queries.SEARCH_LINES, parameters | more).all()
        else:
            rows = connection.execute(queries.SEARCH_JOB_LINES, parameters | {"job_id": self.job_id}).all()
        found = [row for row in rows if row.wanted]
        if len(found) > limit:
            return found[:limit], _place(found[limit - 1])
        if rows and rows[-1].number == WINDOW:
            return found, _place(rows[-1])
        return found, None


def _place(row: Row[Any]) -> Place:
    return Place(row.version, row.at, row.job_id, row.n)
