"""`python -m tests.support.forgetful_stream`: the stream service. Topics go soon after their last viewer."""

import sys
from typing import Any

from services.stream.__main__ import start
from services.stream.app import create_app
from shared.settings import Settings
from shared.web.serve import run_service

LINGER = 0.2
"""Seconds."""


def create_forgetful(settings: Settings) -> Any:
    app = create_app(settings)
    app.state.hub.topics.linger = LINGER
    return app


if __name__ == "__main__":
    sys.exit(run_service("stream", lambda settings: start(settings, create_forgetful)))
