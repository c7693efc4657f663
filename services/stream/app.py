"""The stream service: `GET /api/batches/{id}/stream` with its like, `GET /api/ws`, and its own health."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import structlog
from litestar import HttpMethod, Litestar, Request, route
from litestar.datastructures import State
from litestar.params import FromPath
from litestar.types import ASGIApp

from services.stream.changes import ChangesReply, encode_changes
from services.stream.exposition import Exposition
from services.stream.frames import error_event
from services.stream.history import History
from services.stream.hub import Hub
from services.stream.lifetime import limits_of
from services.stream.metrics import Metrics
from services.stream.sse import EventStream, Refusal, accepts_events, headers_only, nothing_more
from services.stream.viewer import Viewer
from services.stream.websocket import converse, no_upgrade
from shared import schema
from shared.database import make_async_engine
from shared.errors import HeadwayError, TooManyRequests, Unavailable
from shared.event_ids import Filters
from shared.events import ErrorCode
from shared.keys import make_keys
from shared.outlook import premises_of
from shared.settings import Settings
from shared.web.health import Part, health_routes
from shared.web.identity import bearer_reader, reader
from shared.web.metrics import metrics_route
from shared.web.origins import admit_origins
from shared.web.parameters import NoParameters, read_query
from shared.web.problems import EXCEPTION_HANDLERS
from shared.web.watching import ChangesQuery, StreamQuery

log = structlog.get_logger(__name__)

_CONNECTIONS = 4
"""To PostgreSQL, for all viewers together: topics ask, and viewers do not."""


def create_app(settings: Settings, *, jitter: Callable[[], float] = random.random) -> Litestar:
    """`app.state.hub` is to be drained before the server stops."""
    engine = make_async_engine(
        settings.database_url, pool_size=_CONNECTIONS, application="headway-stream", pooler=settings.pooler
    )
    # apart from the topics' connections: a busy process is not one that has lost its database
    probe = make_async_engine(
        settings.database_url, pool_size=1, application="headway-stream-health", pooler=settings.pooler
    )
    metrics = Metrics()
    hub = Hub(settings, History(engine, metrics, premises_of(settings)), jitter=jitter, metrics=metrics)
    exposition = Exposition(metrics, hub.standing)
    keys = make_keys(settings)

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        hub.start()
        hub.topics.prepare()
        try:
            yield
        finally:
            await hub.stop()
            if keys is not None:
                await keys.close()
            await engine.dispose()
            await probe.dispose()

    async def postgresql() -> str | None:
        async with probe.connect() as connection:
            return await connection.run_sync(schema.ask)

    async def redis() -> None:
        if not hub.topics.source.connected:
            raise ConnectionError

    parts = [Part("postgresql", postgresql), Part("redis", redis, needed=False, told=True)]
    app = Litestar(
        [
            stream,
            changes,
            feed,
            converse,
            no_upgrade,
            health_routes(parts, draining=lambda: hub.draining),
            metrics_route(exposition),
        ],
        state=State({"settings": settings, "token_keys": keys, "hub": hub, "jitter": jitter, "exposition": exposition}),
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
    filters = Filters(query.jobs, query.logs)
    came_from = hub.addresses.of(request.scope)
    viewer = await _joined(request, hub.join(batch_id, who.owner, filters, last_id, came_from=came_from))
    if isinstance(viewer, Refusal):
        return viewer
    if viewer.has_everything or request.method == HttpMethod.HEAD:
        hub.leave(viewer)
        return nothing_more if viewer.has_everything else headers_only
    return EventStream(viewer, limits_of(state.settings, who, state.jitter()), hub)


@route("/api/stream", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def feed(request: Request[Any, Any, Any]) -> ASGIApp:
    state = request.app.state
    hub: Hub = state.hub
    who = await bearer_reader(request)
    read_query(request, NoParameters)
    viewer = await _joined(request, hub.join_feed(who.owner, came_from=hub.addresses.of(request.scope)))
    if isinstance(viewer, Refusal):
        return viewer
    if request.method == HttpMethod.HEAD:
        hub.leave(viewer)
        return headers_only
    return EventStream(viewer, limits_of(state.settings, who, state.jitter()), hub)


@route("/api/batches/{batch_id:uuid}/changes", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def changes(request: Request[Any, Any, Any], batch_id: FromPath[UUID]) -> ASGIApp:
    hub: Hub = request.app.state.hub
    who = await reader(request, batch_id)
    query = read_query(request, ChangesQuery)
    filters = Filters(query.jobs, query.logs)
    last_id = "" if query.since == "0" else query.since
    came_from = hub.addresses.of(request.scope)
    viewer = await hub.join(batch_id, who.owner, filters, last_id, encode_changes, came_from=came_from)
    return ChangesReply(viewer, hub, wait=0 if request.method == HttpMethod.HEAD else query.wait)


async def _joined(request: Request[Any, Any, Any], joining: Awaitable[Viewer]) -> Viewer | Refusal:
    hub: Hub = request.app.state.hub
    try:
        return await joining
    except (TooManyRequests, Unavailable) as error:
        return _refuse(request, hub, error)
    except HeadwayError:
        raise
    except Exception:
        if not accepts_events(request.scope):
            raise
        # our mistake; but any other status than 200 would end an EventSource for good
        log.exception("a stream cannot begin", **{name: str(value) for name, value in request.path_params.items()})
        hub.metrics.refusals["internal"] += 1
        return _refuse(request, hub, HeadwayError())


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
    return Refusal(hub.retry() + error_event(code, error.detail, retryable=True))
