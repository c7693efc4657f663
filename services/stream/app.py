"""The stream service over HTTP: `GET /api/batches/{id}/stream` and its own health."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import structlog
from litestar import HttpMethod, Litestar, Request, route
from litestar.datastructures import State
from litestar.params import FromPath
from litestar.types import ASGIApp

from services.stream.carrier import Limits
from services.stream.changes import ChangesReply, encode_changes
from services.stream.frames import error_event
from services.stream.history import History
from services.stream.hub import Hub
from services.stream.sse import EventStream, Refusal, accepts_events, headers_only, nothing_more
from shared.database import make_async_engine
from shared.errors import HeadwayError, TooManyRequests, Unavailable
from shared.event_ids import Filters
from shared.events import ErrorCode
from shared.keys import make_keys
from shared.settings import Settings
from shared.web.health import Part, health_routes
from shared.web.identity import Reader, reader
from shared.web.origins import admit_origins
from shared.web.parameters import read_query
from shared.web.problems import EXCEPTION_HANDLERS
from shared.web.watching import ChangesQuery, StreamQuery

log = structlog.get_logger(__name__)

_CONNECTIONS = 4
"""To PostgreSQL, for all viewers together: topics ask, and viewers do not."""


def create_app(settings: Settings, *, jitter: Callable[[], float] = random.random) -> Litestar:
    """`app.state.hub` is to be drained before the server stops."""
    engine = make_async_engine(settings.database_url, pool_size=_CONNECTIONS, application="headway-stream")
    # apart from the topics' connections: a busy process is not one that has lost its database
    probe = make_async_engine(settings.database_url, pool_size=1, application="headway-stream-health")
    hub = Hub(settings, History(engine), jitter=jitter)
    keys = make_keys(settings)

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        hub.start()
        try:
            yield
        finally:
            await hub.stop()
            if keys is not None:
                await keys.close()
            await engine.dispose()
            await probe.dispose()

    async def redis() -> None:
        if not hub.source.connected:
            raise ConnectionError

    parts = [Part("postgresql", History(probe).check), Part("redis", redis, needed=False)]
    app = Litestar(
        [stream, changes, health_routes(parts, draining=lambda: hub.draining)],
        state=State({"settings": settings, "token_keys": keys, "hub": hub, "jitter": jitter}),
        lifespan=[lifespan],
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=None,
        logging_config=None,  # ours is set up once for the process
        debug=False,
        pdb_on_exception=False,
    )
    return admit_origins(app, settings)


@route("/api/batches/{batch_id:uuid}/stream", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def stream(request: Request[Any, Any, Any], batch_id: FromPath[UUID]) -> ASGIApp:
    state = request.app.state
    hub: Hub = state.hub
    who = await reader(request, batch_id)
    query = read_query(request, StreamQuery)
    last_id = request.headers.get("last-event-id") or query.last_event_id
    try:
        viewer = await hub.join(batch_id, who.owner, Filters(query.jobs, query.logs), last_id)
    except (TooManyRequests, Unavailable) as error:
        return _refuse(request, hub, error)
    except HeadwayError:
        raise
    except Exception:
        if not accepts_events(request.scope):
            raise
        # our mistake; but any other status than 200 would end an EventSource for good
        log.exception("a stream cannot begin", batch=str(batch_id))
        return _refuse(request, hub, HeadwayError())
    if viewer.has_everything or request.method == HttpMethod.HEAD:
        hub.leave(viewer)
        return nothing_more if viewer.has_everything else headers_only
    return EventStream(viewer, _limits(state.settings, who, state.jitter()), hub)


@route("/api/batches/{batch_id:uuid}/changes", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def changes(request: Request[Any, Any, Any], batch_id: FromPath[UUID]) -> ASGIApp:
    hub: Hub = request.app.state.hub
    who = await reader(request, batch_id)
    query = read_query(request, ChangesQuery)
    filters = Filters(query.jobs, query.logs)
    last_id = "" if query.since == "0" else query.since
    viewer = await hub.join(batch_id, who.owner, filters, last_id, encode_changes)
    return ChangesReply(viewer, hub, wait=0 if request.method == HttpMethod.HEAD else query.wait)


def _limits(settings: Settings, who: Reader, jitter: float) -> Limits:
    now = asyncio.get_running_loop().time()
    lifetime = settings.lifetime * (0.8 + 0.2 * jitter)  # not all at once, or they would all return at once
    left = who.expires - time.time()
    if not who.by_ticket and left < lifetime:
        return Limits(settings.heartbeat, now + left, "token_expired")
    return Limits(settings.heartbeat, now + lifetime, "lifetime")


def _refuse(request: Request[Any, Any, Any], hub: Hub, error: HeadwayError) -> Refusal:
    if not accepts_events(request.scope):
        raise error
    code: ErrorCode = "internal"
    if isinstance(error, TooManyRequests):
        code = "too_many_connections"
    elif isinstance(error, Unavailable):
        code = "overloaded"
    if hub.draining:
        return Refusal(hub.farewell())
    return Refusal(hub.retry() + error_event(code, error.title, retryable=True))
