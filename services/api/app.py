"""The api service: everything that is asked and answered once. Streams are the stream service's."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import sqlalchemy as sa
from litestar import Litestar, Router
from litestar.concurrency import sync_to_thread
from litestar.datastructures import State
from litestar.di import Provide

from services.api import (
    appending,
    artifacts,
    batches,
    control,
    documentation,
    jobs,
    kinds,
    logs,
    pages,
    report,
    tickets,
    timeline,
    uploads,
    workers,
)
from services.api.exposition import Exposition
from services.api.facts import Facts
from services.api.metrics import count_requests
from services.api.resources import THREADS, Resources, make_resources
from shared import schema
from shared.amqp_urls import is_amqp
from shared.database import make_engine
from shared.keys import make_keys
from shared.settings import Settings
from shared.web.health import PATIENCE, Part, health_routes
from shared.web.identity import authenticate
from shared.web.metrics import metrics_route
from shared.web.origins import admit_origins
from shared.web.problems import EXCEPTION_HANDLERS
from shared.web.traced import trace_requests


def create_app(settings: Settings) -> Litestar:
    """Connects to nothing before the first request needs it; `/health/ready` says whether it can."""
    resources = make_resources(settings)
    keys = make_keys(settings)
    # apart from the requests' connections: a busy process is not one that has lost its database
    engine = make_engine(
        settings.database_url,
        pool_size=1,
        application="headway api health",
        patience=PATIENCE,
        pooler=settings.pooler,
    )
    looking = make_engine(
        settings.database_url,
        pool_size=1,
        application="headway api metrics",
        patience=PATIENCE,
        pooler=settings.pooler,
    )
    exposition = Exposition(resources, Facts(looking, resources.redis, settings.lease))

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="api"))
        await sync_to_thread(resources.files.prepare)
        yield
        if keys is not None:
            await keys.close()
        resources.close()
        engine.dispose()
        looking.dispose()

    app = Litestar(
        route_handlers=[
            Router(
                "/api",
                route_handlers=[
                    batches.ROUTES,
                    jobs.ROUTES,
                    artifacts.ROUTES,
                    control.ROUTES,
                    appending.ROUTES,
                    logs.logs,
                    timeline.timeline,
                    kinds.kinds,
                    tickets.ticket,
                    uploads.upload,
                    workers.ROUTES,
                    report.ROUTES,
                ],
                guards=[authenticate],
                dependencies={"resources": Provide(_resources, sync_to_thread=False)},
                response_headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
            ),
            health_routes(_parts(resources, engine)),
            pages.home,
            pages.live_page,
            pages.static,
            *documentation.ROUTES,
            metrics_route(exposition),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=[lifespan],
        state=State(
            {
                "settings": settings,
                "token_keys": keys,
                "resources": resources,
                "postgresql": resources.postgresql,
                "exposition": exposition,
            }
        ),
        openapi_config=None,
        logging_config=None,  # ours is set up once for the process
        request_max_body_size=None,  # services/api/body.py knows the limits
        debug=False,  # whatever the environment says: its error page shows everything
        pdb_on_exception=False,
    )
    return count_requests(trace_requests(admit_origins(app, settings)), resources.metrics)


def _resources(state: State) -> Resources:
    resources: Resources = state.resources
    return resources


def _parts(resources: Resources, engine: sa.Engine) -> list[Part]:
    async def rabbitmq() -> None:
        if resources.broker.trouble is not None:
            raise ConnectionError

    parts = [
        Part("postgresql", lambda: sync_to_thread(_ask, engine)),
        Part("redis", lambda: sync_to_thread(resources.redis.ping), needed=False),
    ]
    if is_amqp(resources.settings.tickets_url):
        parts.append(Part("rabbitmq", rabbitmq, needed=False, told=True))
    return parts


def _ask(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        return schema.ask(connection)
