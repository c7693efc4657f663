"""`python -m services.api`: the api service, until SIGTERM or SIGINT."""

import sys

from services.api.app import create_app
from shared.logs import configure_logs
from shared.settings import SettingsError, load_settings
from shared.web.serve import ServeError, serve


def main() -> int:
    try:
        settings = load_settings()
        configure_logs(settings.log_format, "api")
        serve(create_app(settings), host=settings.host, port=settings.port, grace=settings.drain_grace)
    except (SettingsError, ServeError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
