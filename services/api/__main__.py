"""`python -m services.api`: the api service, until SIGTERM or SIGINT."""

import sys

from services.api.app import create_app
from shared.settings import Settings
from shared.web.serve import run_service, serve


def start(settings: Settings) -> None:
    serve(create_app(settings), host=settings.host, port=settings.port, grace=settings.drain_grace)


def main() -> int:
    return run_service("api", start)


if __name__ == "__main__":
    sys.exit(main())
