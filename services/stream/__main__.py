"""`python -m services.stream`: the stream service, until SIGTERM or SIGINT."""

import sys

from services.stream.app import create_app
from shared.settings import Settings
from shared.web.serve import run_service, serve


def start(settings: Settings) -> None:
    app = create_app(settings)

    async def drain() -> None:
        # half of the grace for traffic to move elsewhere, half for the last viewers to be written to
        await app.state.hub.drain(settings.drain_grace / 2)

    serve(app, host=settings.host, port=settings.port, on_exit=drain, grace=settings.drain_grace / 2)


def main() -> int:
    return run_service("stream", start)


if __name__ == "__main__":
    sys.exit(main())
