"""`python -m services.stream`: the stream service, until SIGTERM or SIGINT."""

import sys
from collections.abc import Callable
from typing import Any

if __name__ == "__main__":  # before all that takes its time to be loaded
    from shared.signals import leave_at_once

    leave_at_once(0)

from services.stream.app import create_app
from shared.settings import Settings
from shared.web.serve import run_service, serve


def start(settings: Settings, create: Callable[[Settings], Any] = create_app) -> None:
    app = create(settings)

    async def drain() -> None:
        # half of the grace for traffic to move elsewhere, half for the last viewers to be written to
        await app.state.hub.drain(settings.drain_grace / 2, settings.drain_grace)

    serve(
        app,
        host=settings.host,
        port=settings.port,
        on_exit=drain,
        grace=settings.drain_grace / 2,
        heartbeat=settings.heartbeat,
    )


def main() -> int:
    return run_service("stream", start)


if __name__ == "__main__":
    sys.exit(main())
