"""Runs worker processes until a signal comes: what `python -m infra.workers` and `headway worker` do."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from threading import Event
from typing import Literal

import msgspec
from msgspec import Struct
from prometheus_client import generate_latest

from infra.workers.crew import Crew
from infra.workers.exposition import make_registry
from infra.workers.port import Port, Reply, listen
from shared.files import check_place
from shared.kinds import QUEUES
from shared.logs import configure_logs
from shared.settings import SettingsError, load_settings
from shared.tracing import tracing_wanted

PROCESSES_MAX = 64

_PERIOD = 1.0
"""Seconds between two looks at the workers."""

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Readiness(Struct):
    """As of the other services."""

    status: Literal["ready", "not_ready", "draining"]
    postgresql: Literal["ok", "away"]
    redis: Literal["ok", "away"]


def run(queues: Sequence[str] | None, processes: int) -> None:
    """Of each queue so many; all queues if none is given. Returns when all have ended after SIGTERM or SIGINT; a second
    signal is not waited for. Fit to be process 1. Raises SettingsError and PortError.
    """
    settings = load_settings(keys=False)
    check_place(settings)
    tracing_wanted()  # by the workers themselves: what cannot be had is said here, once
    if unknown := set(queues or ()) - set(QUEUES):
        raise SettingsError(f"There is no queue {', '.join(sorted(unknown))}; there are {', '.join(QUEUES)}.")
    listener = listen(settings.host, settings.worker_port) if settings.worker_port else None
    configure_logs(settings.log_format, "workers")
    crew = Crew(settings, tuple(dict.fromkeys(queues or QUEUES)), processes)
    port = None if listener is None else Port(listener, _routes(crew))
    asyncio.run(_look_after(crew, port))


async def _look_after(crew: Crew, port: Port | None) -> None:
    stop, hurry = asyncio.Event(), Event()

    def ended() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended)
    serving = None if port is None else asyncio.create_task(port.serve())
    crew.start()
    while not stop.is_set():
        crew.look()
        with suppress(TimeoutError):
            async with asyncio.timeout(_PERIOD):
                await stop.wait()
    leaving = asyncio.create_task(asyncio.to_thread(crew.stop, hurry))
    while not leaving.done():
        crew.look()
        await asyncio.wait([leaving], timeout=_PERIOD)
    if serving is not None:
        serving.cancel()
    await leaving


def _routes(crew: Crew) -> dict[str, Callable[[], Reply]]:
    registry = make_registry(crew)

    def live() -> Reply:
        return Reply(HTTPStatus.OK, b'{"status":"live"}')

    def ready() -> Reply:
        readiness = Readiness(crew.status, crew.reached("postgresql"), crew.reached("redis"))
        status = HTTPStatus.OK if readiness.status == "ready" else HTTPStatus.SERVICE_UNAVAILABLE
        return Reply(status, msgspec.json.encode(readiness))

    return {
        "/health/live": live,
        "/health/ready": ready,
        "/metrics": lambda: Reply(HTTPStatus.OK, generate_latest(registry), _TYPE),
    }
