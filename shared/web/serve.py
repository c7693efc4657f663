"""Runs an ASGI application with uvicorn: silent, on a socket bound beforehand, and with time to say goodbye."""

import asyncio
import gc
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn

from shared.logs import configure_logs
from shared.settings import Settings, SettingsError, load_settings
from shared.tracing import start_tracing, stop_tracing
from shared.web.access import AccessLog
from shared.web.protocol import Protocol
from shared.web.sockets import Socket
from shared.web.turns import Turns

_NOTSENT_LOWAT = 25
"""TCP_NOTSENT_LOWAT of <linux/tcp.h>, which `socket` has from Python 3.12 on."""

_UNSENT = 64 * 1024
"""Bytes that the kernel takes before the network does. Its default, megabytes, would be stale by the time a slow
reader gets to them, and would count against our memory."""

_BACKLOG = 2048

_UNMOVED_LEAST = 10.0
"""Seconds, or three heartbeats if that is longer, for which the other end has acknowledged nothing or taken nothing
before the kernel gives a connection up: networks are away for a while at times."""


class ServeError(Exception):
    """One sentence for whoever started this."""


def run_service(name: str, start: Callable[[Settings], None]) -> int:
    """A service's main function: settings, logs, then `start`. The exit status; 2, with a sentence, if it cannot."""
    try:
        settings = load_settings()
        configure_logs(settings.log_format, name)
        start_tracing(name)
        start(settings)
    except (SettingsError, ServeError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    finally:
        stop_tracing()
    return 0


def serve(
    app: Any,
    *,
    host: str,
    port: int,
    on_exit: Callable[[], Awaitable[None]] | None = None,
    grace: float = 5,
    heartbeat: float = 15,
) -> None:
    """Serve until SIGTERM or SIGINT; a second one is not waited for.

    `heartbeat`: seconds between two things that are sent on a connection that is otherwise silent; those who vanished
    without a word are found by it.

    After the first, `on_exit` runs while requests are still answered; then nothing new is accepted, and what is
    still being answered has `grace` seconds. Raises ServeError when it cannot listen, SystemExit(3) when the
    application does not start (the log says why).
    """
    listener = _listen(host, port, max(_UNMOVED_LEAST, 3 * heartbeat))
    config = uvicorn.Config(
        AccessLog(Turns(app)),
        loop="uvloop",
        http=Protocol,
        ws=Socket,
        ws_ping_interval=heartbeat,
        ws_ping_timeout=max(_UNMOVED_LEAST, 2 * heartbeat),
        ws_per_message_deflate=False,  # it would take 300 KB for each connection, and half of our time
        lifespan="on",
        interface="asgi3",
        log_config=None,  # uvicorn's warnings go where ours go
        access_log=False,  # it would print tickets: ours does not
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=max(1, round(grace)),
    )
    # what is loaded by now stays: looking through all of it again and again took half of the time of a large request
    gc.collect()
    gc.freeze()
    _Server(config, on_exit).run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn closes its door at the first signal and tells the application last (Kludex/uvicorn#451): here, first."""

    def __init__(self, config: uvicorn.Config, on_exit: Callable[[], Awaitable[None]] | None) -> None:
        super().__init__(config)
        self._on_exit = on_exit
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()
        self._leaving: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    async def main_loop(self) -> None:
        """Uvicorn's looks ten times a second whether it shall end. Ours is told, and renews the date each second."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._ending.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        # not remembered as uvicorn does, which would raise it again in the end: an asked-for exit has status 0
        if not self.started or self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_task(self._say_goodbye())
        else:
            self.should_exit = self.force_exit = True
            self._ending.set()

    async def _say_goodbye(self) -> None:
        try:
            if self._on_exit is not None:
                await self._on_exit()
        finally:
            self.should_exit = True
            self._ending.set()


def _listen(host: str, port: int, unmoved: float) -> socket.socket:
    """Bound and listening before anything else is started, so that a taken port is one clear sentence."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ServeError(f"Cannot listen on {host}: {error.strerror or error}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform == "linux":
            # connections inherit both
            listener.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, _UNSENT)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * unmoved))
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ServeError(f"Cannot listen on {host} port {port}: {error.strerror or error}.") from None
    listener.setblocking(False)
    return listener
