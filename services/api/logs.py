"""A batch's log: searched in pages, or downloaded whole."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal, get_args
from uuid import UUID

from litestar import Response, get
from litestar.concurrency import sync_to_thread
from litestar.params import FromPath
from msgspec import Meta, Struct
from sqlalchemy import Connection, Engine, Row

from services.api.batches import read_batch
from services.api.body import ApiRequest
from services.api.download import Download
from services.api.resources import Shared
from services.api.search import Place, Search
from services.api.transcript import Name, transcribe
from shared import queries
from shared.errors import FieldError, Invalid, NotFound
from shared.events import Line
from shared.rows import line_of
from shared.updates import Level
from shared.web.parameters import Page, decode_cursor, encode_cursor, read_query

_LEVELS: tuple[str, ...] = get_args(Level)
_LEVEL_LIST = f"^({'|'.join(_LEVELS)})(,({'|'.join(_LEVELS)}))*$"

_AT_ONCE = 500
"""Lines of a download that are held at a time: of the longest kind, four megabytes."""

_PATIENCE = 2.0
"""Seconds of searching after which a page is given out although it is not full."""


Part = Annotated[str, Meta(max_length=200)]


class LogsQuery(Struct, forbid_unknown_fields=True):
    job: Annotated[UUID | None, Meta(description="One job of the batch.")] = None
    level: Annotated[
        str | None, Meta(description="Levels, with commas between.", extra_json_schema={"pattern": _LEVEL_LIST})
    ] = None
    q: Annotated[Part | None, Meta(description="Part of the text, in any case.")] = None
    format: Annotated[Literal["json", "text"], Meta(description="A page of a list, or all of it to download.")] = "json"
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50
    cursor: str | None = None
    ticket: str = ""

    def wrong_levels(self) -> Iterator[FieldError]:
        known = ", ".join(_LEVELS)
        for level in () if self.level is None else self.level.split(","):
            if level not in _LEVELS:
                yield FieldError("level", f"{level[:50]!r} is none of {known}")


@get("/batches/{batch_id:uuid}/logs", ticket_opens=True)
async def logs(request: ApiRequest, resources: Shared, batch_id: FromPath[UUID]) -> Response[Any]:
    query = read_query(request, LogsQuery)
    errors = [*query.wrong_levels()]
    if query.format == "text":
        paging = [name for name in ("limit", "cursor") if name in request.query_params]
        errors += [FieldError(name, "has no meaning for a download") for name in paging]
    if errors:
        raise Invalid(errors=errors)
    reading = Reading(resources.engine, request.auth.owner, batch_id, query)
    search = await sync_to_thread(reading.search)
    if query.format == "json":
        return Response(await sync_to_thread(reading.page, search))
    return Download(reading.pieces(search), f"batch-{batch_id}.log")


class Reading:
    """One request. Between transactions it holds no connection to PostgreSQL, however slow its client is."""

    def __init__(self, engine: Engine, owner: str, batch_id: UUID, query: LogsQuery) -> None:
        self._engine = engine
        self._owner = owner
        self._batch_id = batch_id
        self._query = query

    def search(self) -> Search:
        """For the lines that there are now. Raises NotFound, also for a job of another batch."""
        query = self._query
        with self._engine.connect() as connection:
            batch = read_batch(connection, self._owner, self._batch_id)
            if query.job is not None and query.job not in self._names(connection, {query.job}):
                raise NotFound
        levels = None if query.level is None else query.level.split(",")
        return Search(self._batch_id, batch.version, query.job, levels, query.q or None)

    def page(self, search: Search) -> Page[Line]:
        query = self._query
        place = f"logs:{self._batch_id}:{query.job or ''}"
        after: Place | None = Place() if query.cursor is None else decode_cursor(place, query.cursor, Place)
        rows: list[Row[Any]] = []
        until = time.monotonic() + _PATIENCE
        while after is not None and len(rows) < query.limit:
            with self._engine.connect() as connection:
                found, after = search.page(connection, after, query.limit - len(rows))
            rows += found
            if time.monotonic() >= until:
                break
        return Page([line_of(row) for row in rows], None if after is None else encode_cursor(place, after))

    async def pieces(self, search: Search) -> AsyncIterator[bytes]:
        """All lines as text. Raises NotFound when the batch is deleted meanwhile."""
        after: Place | None = Place()
        while after is not None:
            text, after = await sync_to_thread(self._piece, search, after)
            if text:
                yield text.encode()

    def _piece(self, search: Search, after: Place) -> tuple[str, Place | None]:
        with self._engine.connect() as connection:
            rows, place = search.page(connection, after, _AT_ONCE)
            names = self._names(connection, {row.job_id for row in rows})
            read_batch(connection, self._owner, self._batch_id)  # it is still there, so its lines were too
        return "".join(transcribe(row, names[row.job_id]) for row in rows), place

    def _names(self, connection: Connection, job_ids: set[UUID]) -> dict[UUID, Name]:
        rows = connection.execute(queries.JOB_NAMES, {"ids": sorted(job_ids)})
        return {row.id: Name(row.position, row.name) for row in rows if row.batch_id == self._batch_id}
