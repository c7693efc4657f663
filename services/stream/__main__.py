"""`python -m services.stream`: the stream service, until SIGTERM or SIGINT."""

import sys

from services.stream.app import create_app
from shared.logs import configure_logs
from shared.settings import SettingsError, load_settings
from shared.web.serve import ServeError, serve


def main() -> int:
    try:
        settings = load_settings()
        configure_logs(settings.log_format, "stream")
        app = create_app(settings)

        async def drain() -> None:
            # half of the grace for traffic to move elsewhere, half for the last viewers to be written to
            await app.state.hub.drain(settings.drain_grace / 2)

        serve(app, host=settings.host, port=settings.port, on_exit=drain, grace=settings.drain_grace / 2)
    except (SettingsError, ServeError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
