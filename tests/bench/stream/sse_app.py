"""`python -m tests.bench.stream.sse_app PORT`: events by Litestar's ServerSentEvent, as its documentation has it.

`GET /events` follows what is sent to `POST /events?event=…&id=…`.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from litestar import Litestar, Request, get, post
from litestar.params import FromQuery
from litestar.response import ServerSentEvent, ServerSentEventMessage

_followers: set["asyncio.Queue[ServerSentEventMessage]"] = set()


@get("/events")
async def follow() -> ServerSentEvent:
    return ServerSentEvent(_events())


@post("/events", status_code=204)
async def publish(request: Request[Any, Any, Any], event: FromQuery[str], id: FromQuery[str]) -> None:  # noqa: A002
    message = ServerSentEventMessage(data=await request.body(), event=event, id=id)
    for queue in _followers:
        queue.put_nowait(message)


async def _events() -> AsyncIterator[ServerSentEventMessage]:
    queue: asyncio.Queue[ServerSentEventMessage] = asyncio.Queue()
    _followers.add(queue)
    try:
        while True:
            yield await queue.get()
    finally:
        _followers.discard(queue)


if __name__ == "__main__":
    uvicorn.run(
        Litestar([follow, publish]),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
