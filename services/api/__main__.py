"""`python -m services.api`: the api service, until SIGTERM or SIGINT."""

import sys

if __name__ == "__main__":  # before all that takes its time to be loaded
    from shared.signals import leave_at_once

    leave_at_once(0)

from services.api.app import create_app
from shared.files import check_place
from shared.settings import Settings
from shared.web.serve import run_service, serve


def start(settings: Settings) -> None:
    check_place(settings, writing=True)
    serve(create_app(settings), host=settings.host, port=settings.port, grace=settings.drain_grace)


def main() -> int:
    return run_service("api", start)


if __name__ == "__main__":
    sys.exit(main())
