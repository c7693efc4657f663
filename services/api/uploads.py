"""Uploads: a file is kept first, and named by a job's parameters later."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import UUID

from litestar import post
from litestar.concurrency import sync_to_thread
from sqlalchemy.exc import SQLAlchemyError
from uuid_utils.compat import uuid7

from services.api.body import ApiRequest, chunks
from services.api.reception import Reception
from services.api.replies import Upload
from services.api.resources import Shared
from shared import queries
from shared.errors import Malformed, UnsupportedMediaType
from shared.events import stamp
from shared.web.parameters import NoParameters, read_query

PIECE = 256 * 1024
"""Bytes that are handed to a thread at once: one hop for each of the server's small chunks would cost more than
the writing."""

_FRAME = 64 * 1024
"""Bytes that boundaries and part headers may take beside the file."""


@post("/uploads")
async def upload(request: ApiRequest, resources: Shared) -> Upload:
    read_query(request, NoParameters)
    settings = resources.settings
    kind, parameters = request.content_type
    if kind != "multipart/form-data":
        raise UnsupportedMediaType("expected Content-Type: multipart/form-data")
    if not (boundary := parameters.get("boundary")):
        raise Malformed("the Content-Type has no boundary")
    upload_id = uuid7()
    reception = Reception(resources.files, upload_id, boundary, settings.max_upload)
    try:
        async for piece in _pieces(chunks(request, settings.max_upload + _FRAME)):
            await resources.filing.do(reception.feed, piece)
        await resources.filing.do(reception.finish)
        row = {
            "id": upload_id,
            "owner": request.auth.owner,
            "name": reception.name,
            "size": reception.size,
            "content_type": reception.content_type,
            "ttl": settings.upload_ttl,
        }
        # before the file is there: what is killed in between leaves a row that says what is to go
        expires = await sync_to_thread(_store, resources, row)
        await resources.filing.do(reception.keep)
    except BaseException:
        # in a thread that goes on also where this is given up for good
        await asyncio.shield(resources.filing.do(_discard, resources, reception, upload_id))
        raise
    resources.metrics.uploaded(reception.size)
    return Upload(str(upload_id), reception.name, reception.size, reception.content_type, expires)


def _store(resources: Shared, row: dict[str, object]) -> str:
    with resources.engine.begin() as connection:
        return stamp(connection.execute(queries.ADD_UPLOAD, row).scalar_one())


def _discard(resources: Shared, reception: Reception, upload_id: UUID) -> None:
    if reception.discard() and reception.finished:
        with suppress(SQLAlchemyError), resources.engine.begin() as connection:  # else it expires
            connection.execute(queries.DELETE_UPLOADS, {"ids": [upload_id]})


async def _pieces(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    waiting: list[bytes] = []
    size = 0
    async for chunk in body:
        waiting.append(chunk)
        size += len(chunk)
        if size >= PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
